from experiments._shared import main
from experiments.qk_ov import Config, run

main(run, Config)
