"""What makes training and scoring fast: trees of shared prompts, their kernels, CPU matmuls, compiled layers.

This module is the one door: other rooms import from here and from no file inside. Nothing here changes a score. Every
shortcut is checked against plain batches of the model at hand when a command starts, and left off where it differs.
"""

from odin_rm.fast.compiled import compile_layers as compile_layers
from odin_rm.fast.cpu_matmul import choose_matmul as choose_matmul
from odin_rm.fast.cpu_matmul import use_fast_products as use_fast_products
from odin_rm.fast.direction import reads_left_to_right as reads_left_to_right
from odin_rm.fast.layout import choose_layout as choose_layout
from odin_rm.fast.layout import forward_cost as forward_cost
from odin_rm.fast.layout import known_layout as known_layout
from odin_rm.fast.layout import longest_and_first as longest_and_first
from odin_rm.fast.layout import some_sequences as some_sequences
from odin_rm.fast.tree_attention import KERNELS as KERNELS
from odin_rm.fast.tree_check import TreeSupport as TreeSupport
from odin_rm.fast.tree_rows import neighbour_reason as neighbour_reason
from odin_rm.fast.tree_rows import score_row as score_row
from odin_rm.fast.tree_rows import structural_reason as structural_reason
