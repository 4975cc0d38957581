from experiments._shared import main
from experiments.number import Config, run

main(run, Config)
