"""What a machine with GPUs has to show before a long run is trusted to it: `tools/gpu_check.sh`.

Each part is a module with CHECKS, title -> function of a `Setting` that yields rows, and runs in a
process of its own. With `--rehearse` the same functions run on the CPU over gloo.
"""
