"""Random weights for PyTorch modules, in place of ones and zeros too, so that every part is tested."""

import torch


def perturb(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """The module in evaluation mode, with seeded noise, scaled to its size, in every parameter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1:
                parameter.add_(0.2 * noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    return module.eval().requires_grad_(False)
