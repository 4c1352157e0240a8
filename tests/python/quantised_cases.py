"""Weights that bitsandbytes quantised, and llama.cpp's blocks with the values that gguf-py reads in them, for tests.

Usage, from the repository's root, with bitsandbytes 0.50.2, gguf 0.19, torch 2.12.1 and safetensors:
    python tests/python/quantised_cases.py          writes tests/fixtures/quantised.safetensors
"""
import bitsandbytes.functional as bnb
import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import dequantize
from safetensors.torch import save_file

# Where a block's halves of 16 bits are: the others are codes, and any byte is one.
BLOCKS = {Type.Q8_0: [0], Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q4_K: [0, 2],
          Type.Q5_K: [0, 2], Type.Q6_K: [208]}

torch.manual_seed(21)
tensors = {}


def bounds(kind):
    """Where one code begins, and the floats beside it."""
    code = bnb.get_4bit_type(kind, device="cpu").sort().values
    middle = (code[:-1] + code[1:]) / 2
    up, down = torch.full_like(middle, 2), torch.full_like(middle, -2)
    return torch.cat([torch.ones(1), middle, middle.nextafter(up), middle.nextafter(down), torch.zeros(18)])


def four(name, weight, kind, nested, block=64):
    codes, state = bnb.quantize_4bit(weight, quant_type=kind, compress_statistics=nested, blocksize=block)
    key = f"{name}.{kind}.{block}" + (".nested" if nested else "")
    tensors[f"{name}.weight"] = weight
    tensors[f"{key}.codes"], tensors[f"{key}.absmax"] = codes.flatten(), state.absmax
    if nested:
        tensors[f"{key}.nested_absmax"] = state.state2.absmax
        tensors[f"{key}.nested_offset"] = state.offset.reshape(1)
    tensors[f"{key}.decoded"] = bnb.dequantize_4bit(codes, state)


odd, tail, edges = torch.randn(5, 13), torch.randn(3, 40) * 0.02, torch.randn(8, 64)
edges[1], edges[2], edges[3], edges[4] = 0, -0.0, 0.5, edges[4] * 1e-41
wide, blocks = (torch.randn(300, 64) * torch.rand(300, 1)).bfloat16(), torch.randn(6, 100).half()
for kind in ("nf4", "fp4"):
    # 64 divides none of these sizes; a last code stands alone; values lie between two codes.
    four("odd", odd, kind, False)
    four("odd", odd, kind, True)
    four("tail", tail, kind, False)
    four(f"bounds_{kind}", bounds(kind).reshape(1, 64), kind, False)
    # Blocks of zeros, of one value, and of values that are hardly there.
    four("edges", edges, kind, False)
    four("edges", edges, kind, True)
    four("zeros", torch.zeros(2, 50), kind, True)
    # More than one group of nested scales.
    four("wide", wide, kind, True)
    four("blocks", blocks, kind, True, 128)

for name, weight in {"int8": torch.randn(7, 33), "int8_half": (torch.randn(4, 64) * 0.1).bfloat16()}.items():
    weight[2] = 0
    # The layer makes a weight f16 before it is quantised.
    codes, scales, _ = bnb.int8_vectorwise_quant(weight.half())
    tensors[f"{name}.weight"], tensors[f"{name}.codes"], tensors[f"{name}.absmax"] = weight, codes, scales
    tensors[f"{name}.decoded"] = bnb.int8_vectorwise_dequant(codes, scales).to(weight.dtype)

generator = np.random.default_rng(5)
for kind, halves in BLOCKS.items():
    values, size = GGML_QUANT_SIZES[kind]
    blocks = generator.integers(0, 256, (3, 512 // values, size), dtype=np.uint8)
    for at in halves:
        scales = generator.normal(0, 0.05, blocks.shape[:2]).astype(np.float16)
        blocks[:, :, at:at + 2] = scales.view(np.uint8).reshape(*blocks.shape[:2], 2)
    blocks = blocks.reshape(3, -1)
    tensors[f"blocks.{kind.name}"] = torch.from_numpy(blocks)
    tensors[f"blocks.{kind.name}.values"] = torch.from_numpy(dequantize(blocks, kind).copy())

for kind in ("nf4", "fp4"):
    tensors[f"values.{kind}"] = bnb.get_4bit_type(kind, device="cpu")
tensors["values.nested"] = bnb.create_dynamic_map()
save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, "tests/fixtures/quantised.safetensors")
