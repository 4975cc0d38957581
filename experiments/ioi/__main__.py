from experiments._shared import main
from experiments.ioi import Config, run, shown

main(run, Config, shown)
