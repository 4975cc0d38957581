from experiments._shared import main
from experiments.greater_than import Config, run

main(run, Config)
