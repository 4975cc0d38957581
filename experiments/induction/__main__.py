from experiments._shared import main
from experiments.induction import Config, run

main(run, Config)
