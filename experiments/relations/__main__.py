from experiments._shared import main
from experiments.relations import Config, run
from experiments.relations.report import shown

main(run, Config, shown)
