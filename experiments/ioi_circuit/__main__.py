from experiments._shared import main
from experiments.ioi_circuit import Config, run, shown

main(run, Config, shown)
