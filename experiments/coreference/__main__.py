from experiments._shared import main
from experiments.coreference import Config, run
from experiments.coreference.report import shown

main(run, Config, shown)
