from experiments._shared import main
from experiments.attention_is import Config, run

main(run, Config)
