from experiments._shared import main
from experiments.pos import Config, run
from experiments.pos.report import shown

main(run, Config, shown)
