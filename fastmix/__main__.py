"`python -m fastmix` is `fastmix-train`, for launchers: `torchrun --nproc_per_node 2 -m fastmix`"
from fastmix.cli import main
main()
