from experiments._shared import main
from experiments.ioi import Config, run

main(run, Config)
