"""Volumes for tests: bodies in noise, in files of every kind."""

import numpy as np

# Slices, rows and columns are told apart, and each axis of the file has a spacing of its own.
AFFINE = np.array([[-1.0, 0, 0, 30], [0, 2.0, 0, -20], [0, 0, 1.5, 5], [0, 0, 0, 1]])


def write_nifti(path, array, affine=AFFINE, *, dtype=None):
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.asarray(array, dtype=dtype), affine), path)
    return path


def write_series(folder, array, *, spacing=(2.0, 0.5, 0.75), first=(-10.0, 20.0, 5.0), change=None):
    """Write a DICOM series of an array (slices, rows, columns); `change` may alter a slice first."""
    import pydicom
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    series, study = generate_uid(entropy_srcs=["series"]), generate_uid(entropy_srcs=["study"])
    # Names run against the order in the body, as those of archives may.
    for number, values in enumerate(array):
        slice_ = pydicom.Dataset()
        slice_.file_meta = pydicom.dataset.FileMetaDataset()
        slice_.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_.file_meta.MediaStorageSOPClassUID = CTImageStorage
        slice_.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(number)])
        slice_.SOPClassUID, slice_.SOPInstanceUID = CTImageStorage, generate_uid(entropy_srcs=[str(number)])
        slice_.SeriesInstanceUID, slice_.StudyInstanceUID, slice_.Modality = series, study, "CT"
        slice_.Rows, slice_.Columns = values.shape
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 1
        slice_.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        slice_.ImagePositionPatient = [first[0], first[1], first[2] + number * spacing[0]]
        slice_.PixelSpacing, slice_.SliceThickness = [spacing[1], spacing[2]], spacing[0]
        slice_.RescaleSlope, slice_.RescaleIntercept = 2, -1000
        slice_.PixelData = np.ascontiguousarray(values, dtype="<i2").tobytes()
        if change is not None:
            change(number, slice_)
        slice_.save_as(folder / f"IM{len(array) - number:03}.dcm", enforce_file_format=True)
    return folder


def ball(generator, sides=(20, 18, 16), *, radius=4.5, noise=0.1):
    """Return a ball in noise, and which voxels are its own."""
    grid = np.stack(np.meshgrid(*map(np.arange, sides), indexing="ij"))
    middle = np.array([generator.uniform(radius + 1, side - radius - 2) for side in sides])
    mask = ((grid - middle[:, None, None, None]) ** 2).sum(0) < radius**2
    return generator.normal(scale=noise, size=sides) + mask, mask
