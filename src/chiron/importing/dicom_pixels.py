"""Render a frame of a DICOM image as the standard specifies (PS3.3 C.7.6.3, C.11.1, C.11.2), without further processing."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from chiron.cases.images import MAX_PIXELS
from chiron.extras import install_command
from chiron.importing.dicom_header import frame_groups, number, numbers, text_of, window_of
from chiron.importing.source import LeaveOut, Why, open_unpacked
from chiron.importing.writer import png

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

_DECODERS = {
    "JPEG 2000": "pylibjpeg and pylibjpeg-openjpeg",
    "High-Throughput": "pylibjpeg and pylibjpeg-openjpeg",
    "JPEG": "pylibjpeg and pylibjpeg-libjpeg",
    "RLE": "pylibjpeg and pylibjpeg-rle",
}


class Frames:
    """Renderer of DICOM frames. It caches the last file, so that a multi-frame file is read once."""

    def __init__(self) -> None:
        """Start with an empty cache."""
        self._path: Path | None = None
        self._header: Any = None

    def render(self, path: Path, frame: int) -> bytes:
        """Render a frame as PNG with the window from the header.

        Raises:
            LeaveOut: there are no pixels, no decoder for them is installed, or the data is truncated or damaged.
        """
        import warnings

        # pydicom warns about every deviation from the standard; those that matter fail when the pixels are decoded.
        with warnings.catch_warnings(action="ignore"):
            header = self._read(path)
            pixels = _decoded(header, frame)
            try:
                shown = _shown(header, frame, pixels)
            except Exception as error:
                raise LeaveOut(Why.IMAGE, f"its window or palette is damaged ({type(error).__name__})") from error
        return png(shown, _aspect(header, frame))

    def _read(self, path: Path) -> Any:
        from pydicom import dcmread

        if path != self._path:
            self._path = self._header = None
            try:
                with open_unpacked(path) as file:
                    self._header = dcmread(file, force=True)
            except Exception as error:
                # pydicom raises many exception types on damaged files, and their messages may quote the header.
                raise LeaveOut(Why.IMAGE, f"the file is damaged or truncated ({type(error).__name__})") from error
            self._path = path
        return self._header


def missing_decoder(header: "Dataset") -> str | None:
    """Return the reason why no decoder is installed for the pixels, with the package to add; None if they can be decoded."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    uid = UID(text_of(getattr(header, "file_meta", header), "TransferSyntaxUID") or "1.2.840.10008.1.2")
    try:
        if not uid.is_compressed or uid == "1.2.840.10008.1.2.1.99":
            return None
    except ValueError:  # neither a standard transfer syntax nor one registered with pydicom
        return "its transfer syntax is private or invalid, so the pixels cannot be decoded: export it as Explicit VR Little Endian"
    try:
        available = get_decoder(uid).is_available
    except NotImplementedError:
        return f"compressed as {uid.name}, which no decoder here knows: export it uncompressed"
    if available:
        return None
    wanted = next((packages for name, packages in _DECODERS.items() if name in uid.name), "pylibjpeg")
    return f"compressed as {uid.name}, and no decoder for it is installed: add {wanted} or python-gdcm ({install_command('import')})"


def _decoded(header: "Dataset", frame: int) -> "NDArray[Any]":
    from pydicom.pixels.utils import pixel_array
    from pydicom.uid import UID

    if "PixelData" not in header:
        what = (
            "floating-point pixels, which cannot be displayed"
            if "FloatPixelData" in header or "DoubleFloatPixelData" in header
            else "no pixels"
        )
        raise LeaveOut(Why.NO_IMAGE, f"it contains {what}")
    size = int(number(header, "Rows", 0)) * int(number(header, "Columns", 0))
    if size == 0 or size > MAX_PIXELS:
        raise LeaveOut(Why.IMAGE, f"its header gives {size:,} pixels per frame; 1 to {MAX_PIXELS:,} are supported")
    if (missing := missing_decoder(header)) is not None:
        raise LeaveOut(Why.COMPRESSION, missing)
    try:
        array: NDArray[Any] = pixel_array(header, index=frame)
    except Exception as error:
        words = str(error)
        if any(part in words for part in ("less than expected", "truncated", "shorter than", "end of file", "is missing frame")):
            raise LeaveOut(Why.IMAGE, "its pixels are truncated: fetch the file again from where it came") from error
        how = UID(text_of(header.file_meta, "TransferSyntaxUID") or "1.2.840.10008.1.2").name
        reason = f"its pixels ({how}) cannot be decoded: the file is damaged, or of a kind that only the package python-gdcm reads"
        raise LeaveOut(Why.IMAGE, reason) from error
    return array


def _shown(header: "Dataset", frame: int, pixels: "NDArray[Any]") -> "NDArray[np.uint8]":
    photometric = text_of(header, "PhotometricInterpretation") or "MONOCHROME2"
    if photometric == "PALETTE COLOR":
        from pydicom.pixels.processing import apply_color_lut

        return _eight_bits(apply_color_lut(pixels, header))
    if pixels.ndim == 3:
        return _eight_bits(pixels, int(number(header, "BitsStored", 8)))
    gray = _windowed(header, frame, pixels)
    # MONOCHROME1 shows the lowest value brightest.
    inverse = photometric == "MONOCHROME1" or text_of(header, "PresentationLUTShape") == "INVERSE"
    return 255 - gray if inverse else gray


def _windowed(header: "Dataset", frame: int, pixels: "NDArray[Any]") -> "NDArray[np.uint8]":
    import numpy as np
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    groups = list(frame_groups(header, frame))
    if "ModalityLUTSequence" in header:
        values = np.asarray(apply_modality_lut(pixels, header), dtype=np.float64)
    else:
        slope = next((s[0] for g in groups if (s := numbers(g, "RescaleSlope"))), 1.0)
        intercept = next((i[0] for g in groups if (i := numbers(g, "RescaleIntercept"))), 0.0)
        values = pixels * (slope or 1.0) + intercept
    if header.get("VOILUTSequence") and header.VOILUTSequence[0].get("LUTData") is not None:
        table = header.VOILUTSequence[0]
        top = 2.0 ** int(table.LUTDescriptor[2]) - 1
        return _bytes(np.asarray(apply_voi(values.astype(np.int64), header, index=0), dtype=np.float64) / top)
    if (given := window_of(header, frame)) is not None:
        return _bytes(window(values, *given))
    return _bytes(_unwindowed(header, pixels, values))


def window(values: "NDArray[Any]", center: float, width: float, function: str = "LINEAR") -> "NDArray[np.float64]":
    """Apply a window to values with pydicom (PS3.3 C.11.2.1.2 and C.11.2.1.3); return 0 (black) to 1 (white)."""
    from pydicom.dataset import Dataset
    from pydicom.pixels.processing import apply_windowing

    # pydicom reads windows from the top level only, and scales to the range of the stored values: 0 to 1 for one unsigned bit.
    header = Dataset()
    header.PhotometricInterpretation, header.BitsStored, header.PixelRepresentation = "MONOCHROME2", 1, 0
    header.WindowCenter, header.WindowWidth = center, width
    header.VOILUTFunction = function if function in {"LINEAR_EXACT", "SIGMOID"} else "LINEAR"
    shares: NDArray[np.float64] = apply_windowing(values, header)
    return shares


def _unwindowed(header: "Dataset", pixels: "NDArray[Any]", values: "NDArray[Any]") -> "NDArray[np.float64]":
    """Scale an image without a window: 8-bit values unchanged, others by their range without the extreme 0.5% at each end."""
    import numpy as np

    bits = int(number(header, "BitsStored", 16))
    if bits <= 8 and pixels.dtype == np.uint8 and np.array_equal(pixels, values):
        return np.asarray(values / (2.0**bits - 1))
    inside = values[~_padding(header, pixels)]
    hounsfield = (text_of(header, "Modality") or "").upper() == "CT"
    return spread(values, without_padding(inside if inside.size else values, hounsfield=hounsfield))


def _padding(header: "Dataset", pixels: "NDArray[Any]") -> "NDArray[np.bool_]":
    """Return the mask of stored values that the header marks as padding: one value or a range (PS3.3 C.7.5.1.1.2)."""
    import numpy as np

    value, limit = numbers(header, "PixelPaddingValue"), numbers(header, "PixelPaddingRangeLimit")
    if value is None:
        return np.zeros(pixels.shape, dtype=bool)
    # Some writers store a negative padding value as unsigned.
    ends = sorted(end - 2**16 if pixels.dtype.kind == "i" and end >= 2**15 else end for end in (value[0], (limit or value)[0]))
    return np.asarray((pixels >= ends[0]) & (pixels <= ends[1]))


_AIR = -1024
"""Lowest tissue value in Hounsfield units. Scanners and converters fill unmeasured areas with -2000, -2048 or -3024."""


def without_padding(values: "NDArray[Any]", *, hounsfield: bool | None) -> "NDArray[Any]":
    """Remove values below air, so that the window fits the body.

    Args:
        values: sample of an image or a volume.
        hounsfield: whether the values are Hounsfield units. None, if unknown: they count as such if at least 2% of them share a lowest
            value below air, which does not happen in measured values.
    """
    import numpy as np

    finite = values[np.isfinite(values)]
    if hounsfield is None:
        hounsfield = bool(finite.size and finite.min() < _AIR < 0 < finite.max() and np.mean(finite == finite.min()) >= 0.02)
    inside = finite[finite >= _AIR] if hounsfield else finite
    return np.asarray(inside if inside.size * 100 >= finite.size else finite)


def spread(values: "NDArray[Any]", inside: "NDArray[Any]") -> "NDArray[np.float64]":
    """Scale the 0.5th to 99.5th percentile of ``inside`` to 0..1; return 0.5 everywhere if all values are equal."""
    import numpy as np

    finite = inside[np.isfinite(inside)]
    low, high = (float(p) for p in np.percentile(finite, (0.5, 99.5))) if finite.size else (0.0, 0.0)
    if high <= low:
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if high <= low:
        return np.full(values.shape, 0.5)
    return np.asarray(np.clip((np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / (high - low), 0, 1))


def _bytes(shares: "NDArray[Any]") -> "NDArray[np.uint8]":
    import numpy as np

    return np.round(shares * 255).astype(np.uint8)


def _eight_bits(pixels: "NDArray[Any]", stored: int | None = None) -> "NDArray[np.uint8]":
    import numpy as np

    bits = pixels.dtype.itemsize * 8 if stored is None or stored > pixels.dtype.itemsize * 8 else stored
    return pixels[..., :3].astype(np.uint8) if bits == 8 else _bytes(pixels[..., :3] / (2.0**bits - 1))


def _aspect(header: "Dataset", frame: int) -> float:
    for group in frame_groups(header, frame):
        for name in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio"):
            if (pair := numbers(group, name)) and len(pair) == 2 and min(pair) > 0:
                return pair[0] / pair[1]
    return 1.0
