"""Weights that bitsandbytes quantised, for tests.

Usage, from the repository's root, with bitsandbytes 0.50.2, torch 2.12.1 and safetensors:
    python tests/python/quantised_cases.py          writes tests/fixtures/quantised.safetensors
"""
import bitsandbytes.functional as bnb
import torch
from safetensors.torch import save_file

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

for kind in ("nf4", "fp4"):
    tensors[f"values.{kind}"] = bnb.get_4bit_type(kind, device="cpu")
tensors["values.nested"] = bnb.create_dynamic_map()
save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, "tests/fixtures/quantised.safetensors")
