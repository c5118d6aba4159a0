"""DICOM files made of phantoms, for the tests of decoding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pytest
from pydicom.dataset import Dataset

from boneage.radiographs.dicom import quiet_pydicom

MakeDicom = Callable[..., bytes]


@pytest.fixture(scope="session")
def make_dicom(tmp_path_factory: pytest.TempPathFactory) -> MakeDicom:
    """Returns a function that gives the bytes of a DICOM file that holds an array."""
    folder = tmp_path_factory.mktemp("dicom")

    def make(
        pixels: npt.NDArray[Any],
        bits: int,
        *,
        syntax: str = "",
        overlay: Dataset | None = None,
        **header: Any,
    ) -> bytes:
        from pydicom.dataset import FileMetaDataset
        from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

        dataset = Dataset() if overlay is None else Dataset(overlay)
        dataset.SOPClassUID = ComputedRadiographyImageStorage
        dataset.SOPInstanceUID = "2.25.17"
        dataset.PatientName = "Doe^Jane"
        dataset.PatientBirthDate = "20150401"
        dataset.Rows, dataset.Columns = pixels.shape[:2]
        dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else pixels.shape[2]
        if pixels.ndim == 3:
            dataset.PlanarConfiguration = 0
        dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
        dataset.BitsAllocated = 8 * pixels.itemsize
        dataset.BitsStored, dataset.HighBit = bits, bits - 1
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()
        dataset.PixelData += bytes(len(dataset.PixelData) % 2)
        dataset["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"
        path = folder / "film.dcm"
        with quiet_pydicom():  # it minds what is wrong, and that is what some tests are after
            for keyword, value in header.items():
                setattr(dataset, keyword, value)
            dataset.save_as(path, enforce_file_format=True)
        if syntax:
            transcode(path, syntax)
        return path.read_bytes()

    return make


def transcode(path: Path, syntax: str) -> None:
    """Compresses a DICOM file with GDCM, in its place."""
    gdcm = pytest.importorskip("gdcm", reason='needs the extra "dicom"')
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
