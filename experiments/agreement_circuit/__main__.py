from experiments._shared import main
from experiments.agreement_circuit import Config, run

main(run, Config)
