from experiments._shared import main
from experiments.vision import Config, run

main(run, Config)
