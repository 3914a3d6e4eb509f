"""What the machine at hand can compute with."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Hardware:
    """Instruction sets that decide which number formats run. `gpu` is the compute capability, such as 9.0."""

    avx2: bool = False
    avx512: bool = False
    bf16: bool = False
    amx: bool = False
    gpu: float | None = None

    @property
    def name(self) -> str:
        """As a reader knows it."""
        if self.gpu is not None:
            return f"an NVIDIA GPU of compute capability {self.gpu}"
        if self.amx:
            return "a CPU with AMX"
        if self.avx512:
            return "a CPU with AVX-512"
        return "a CPU with AVX2" if self.avx2 else "a CPU without AVX2"


def detect() -> Hardware:
    """This machine."""
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        return Hardware(bf16=major >= 8, gpu=major + minor / 10)
    return Hardware(
        avx2=torch.cpu._is_avx2_supported(),
        avx512=torch.cpu._is_avx512_supported(),
        bf16=torch.cpu._is_avx512_bf16_supported(),
        amx=torch.cpu._is_amx_tile_supported(),
    )
