from experiments._shared import main
from experiments.translation import Config, run

main(run, Config)
