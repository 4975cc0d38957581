from experiments._shared import main
from experiments.ground_truth import Config, run

main(run, Config)
