"""The published table that a new ledger starts with: hourly rents and measured speeds of one detection model.

From an article on running cv_resnet18_ocr-detection (DBNet, ResNet-18) on rented GPUs: prices in CNY, images of 800x800
one at a time. What it does not give is None here, and unknown everywhere: never guessed, never 0. It also gives a spot
price, 1.80 where on-demand is 4.20, but names no GPU for it, so there is no row of that.
"""

from dataclasses import dataclass

MODEL = "cv_resnet18_ocr-detection"
CURRENCY = "CNY"
SOURCE = "seed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One machine of the table. Decimal text, so that no digit is lost on its way to micro-units."""

    gpu: str
    machine: str  # as the table names it
    price_per_hour: str | None = None
    seconds_per_image: str | None = None
    peak_memory_gb: str | None = None
    note: str = ""


TABLE = (
    Row(gpu="A100", machine="A100 80 GB", price_per_hour="12.00"),
    Row(gpu="V100", machine="V100 32 GB", price_per_hour="8.50"),
    Row(
        gpu="RTX 3090",
        machine="RTX 3090 24 GB",
        price_per_hour="4.20",
        seconds_per_image="0.2",
        peak_memory_gb="5.1",
    ),
    Row(
        gpu="RTX 3060",
        machine="RTX 3060 12 GB",
        price_per_hour="1.80",
        seconds_per_image="0.4",
        peak_memory_gb="4.8",
        note="0.32 s with ONNX Runtime CUDA by the same source; its table's 0.4 s is what is compared",
    ),
    Row(
        gpu="GTX 1060",
        machine="GTX 1060 6 GB",
        price_per_hour="0.90",
        seconds_per_image="0.9",
        peak_memory_gb="4.3",
    ),
    Row(gpu="i7-10700K", machine="CPU i7-10700K", seconds_per_image="3.1"),
)
