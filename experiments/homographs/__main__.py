from experiments._shared import main
from experiments.homographs import Config, run
from experiments.homographs.report import shown

main(run, Config, shown)
