from experiments._shared import main
from experiments.adapters import Config, run

main(run, Config)
