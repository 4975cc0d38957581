from experiments._shared import main
from experiments.recall import Config, run

main(run, Config)
