"""Volumes from files: where their voxels lie, how they are resampled, and what is refused."""

import gzip
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from data.volume_files import AFFINE, write_nifti, write_series
from nonlocalnn.data import load_dataset
from nonlocalnn.data.recognition import recognised_data
from nonlocalnn.data.volumes.dataset import load_volumes
from nonlocalnn.data.volumes.files import find_volumes, read_volume, volume_stem, write_mask
from nonlocalnn.data.volumes.masked import load_volume_masks
from nonlocalnn.data.volumes.reading import Reading, Sampled
from tolerances import assert_near, assert_same

nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
GENERATOR = np.random.default_rng(0)
ARRAY = GENERATOR.normal(size=(7, 5, 11)).astype(np.float32)


def whole(volume):
    return volume.box((0, 0, 0), volume.sides)


# Every way in which the axes of a file may lie: exchanged, turned round, and askew.
@pytest.mark.parametrize(
    "affine",
    [
        AFFINE,
        np.diag([1.0, 2.0, 3.0, 1.0]),
        np.array([[0, 0, 2.0, 5], [-1.0, 0, 0, 3], [0, 3.0, 0, -7], [0, 0, 0, 1]]),
        np.array([[0.9, 0.3, 0, 1], [-0.3, 0.9, 0.1, 2], [0, -0.1, 1.2, 3], [0, 0, 0, 1]]),
    ],
    ids=["LAS", "RAS", "exchanged", "oblique"],
)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_each_voxel_of_a_nifti_file_stays_where_it_is(tmp_path, affine, ending):
    volume = read_volume(write_nifti(tmp_path / f"a{ending}", ARRAY, affine))
    numbers = whole(volume)
    to_file = np.linalg.inv(affine) @ volume.affine
    for place in np.ndindex(*volume.sides):
        i, j, k = np.round(to_file @ [*place, 1])[:3].astype(int)
        assert float(numbers[(0, *place)]) == float(ARRAY[i, j, k])
    # Slices go to the head, rows to the back and columns to the left.
    steps = volume.affine[:3, :3]
    assert steps[2, 0] > 0 > steps[1, 1]
    assert steps[0, 2] < 0


def test_scaled_numbers_and_a_fourth_axis_of_one(tmp_path):
    image = nibabel.Nifti1Image((ARRAY * 100).astype(np.int16)[..., None], AFFINE)
    image.header.set_slope_inter(0.5, 3)
    nibabel.save(image, tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    expected = np.asarray(nibabel.load(tmp_path / "a.nii.gz").dataobj)[..., 0]
    assert_near(whole(volume).sum().double(), torch.tensor(expected.sum()), sums=1000, dtype=torch.float32)


def test_micrometres_are_millimetres(tmp_path):
    image = nibabel.Nifti1Image(ARRAY, np.diag([500.0, 500, 2000, 1]))
    image.header.set_xyzt_units("micron")
    nibabel.save(image, tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii").spacing == pytest.approx((2, 0.5, 0.5))


def test_a_series_is_ordered_by_where_it_lies(tmp_path):
    array = GENERATOR.integers(0, 1000, size=(4, 5, 6))
    volume = read_volume(write_series(tmp_path / "scan", array))
    assert_same(whole(volume)[0], torch.tensor(2.0 * array - 1000, dtype=torch.float32))
    assert volume.spacing == pytest.approx((2.0, 0.5, 0.75))
    # DICOM counts towards left and back; millimetres here towards right and front.
    assert (volume.affine @ [1, 0, 0, 1])[:3] == pytest.approx([10, -20, 7])


@pytest.mark.parametrize("ending", [".npy", ".npz", ".tif"])
def test_plain_files_keep_their_order(tmp_path, ending):
    array, path = (100 * ARRAY).astype(np.int16), tmp_path / f"a{ending}"
    if ending == ".npy":
        np.save(path, array)
    elif ending == ".npz":
        np.savez(path, volume=array, spacing=np.array([3.0, 1.0, 0.5]))
    else:
        from PIL import Image

        array = array.astype(np.uint8)
        pages = [Image.fromarray(page) for page in array]
        tags = {270: "ImageJ=1.53\nimages=7\nslices=7\nspacing=2.0\nunit=micron\n", 282: 4.0, 283: 2.0}
        pages[0].save(path, save_all=True, append_images=pages[1:], tiffinfo=tags)
    volume = read_volume(path)
    assert_same(whole(volume)[0], torch.tensor(array.astype(np.float32)))
    spacing = {".npy": (1, 1, 1), ".npz": (3, 1, 0.5), ".tif": (0.002, 0.0005, 0.00025)}[ending]
    assert volume.spacing == pytest.approx(spacing)
    assert (volume.has_spacing, volume.is_oriented) == (ending != ".npy", False)


def test_channels_of_arrays_come_first(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4, 5)))
    volume = read_volume(tmp_path / "a.npy")
    assert (volume.channels, volume.sides) == (2, (3, 4, 5))


def test_arrays_are_mapped_and_not_read(tmp_path):
    np.save(tmp_path / "a.npy", ARRAY)
    write_nifti(tmp_path / "a.nii", ARRAY)
    for name in ("a.npy", "a.nii"):
        stored = read_volume(tmp_path / name).stored
        while stored.base is not None and not isinstance(stored, np.memmap):
            stored = stored.base
        assert isinstance(stored, np.memmap)


@pytest.mark.parametrize("spacing", [None, (1.5, 4.0, 0.7), (0.4, 0.9, 2.5)])
@pytest.mark.parametrize("intensity", [None, (-1.0, 1.0)])
def test_a_box_is_that_part_of_the_whole(tmp_path, spacing, intensity):
    volume = read_volume(write_nifti(tmp_path / "a.nii.gz", ARRAY))
    sampled = Sampled(volume, Reading(spacing=spacing, intensity=intensity))
    everything = sampled.whole()
    assert everything.shape[1:] == sampled.sides
    start, stop = [side // 3 for side in sampled.sides], [side - side // 4 for side in sampled.sides]
    part = everything[(slice(None), *(slice(*pair) for pair in zip(start, stop, strict=True)))]
    assert_near(sampled.box(start, stop), part)
    if spacing is None and intensity is None:
        # By the voxels above the mean of all.
        body = everything[torch.from_numpy(ARRAY.mean() < ARRAY).permute(2, 1, 0).flip(1)[None]]
        assert_near(body.mean(), torch.tensor(0.0), sums=1000, largest=5.0)
        assert_near(body.std(correction=0), torch.tensor(1.0), sums=1000)


def test_air_around_a_body_changes_nothing(tmp_path):
    body = 100 + GENERATOR.normal(size=(8, 8, 8))
    scales = []
    for name, around in (("a", 3), ("b", 12)):
        np.save(tmp_path / f"{name}.npy", np.pad(body, around))
        scales.append(read_volume(tmp_path / f"{name}.npy").scale)
    assert scales[0] == pytest.approx(scales[1])
    np.save(tmp_path / "c.npy", np.full((3, 3, 3), 7.0))
    assert read_volume(tmp_path / "c.npy").scale == (7.0, 1.0)


def test_resampling_keeps_a_slope_and_its_millimetres(tmp_path):
    # A value that is its own place in millimetres stays that on every grid, but for the voxels at the edge.
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    places = np.arange(20) * 2.0
    write_nifti(tmp_path / "a.nii", np.broadcast_to(places, (6, 6, 20)).astype(np.float32), affine)
    for spacing in ((1.0, 1.0, 1.0), (5.0, 1.0, 1.0)):
        sampled = Sampled(read_volume(tmp_path / "a.nii"), Reading(spacing, intensity=(-100.0, 100.0)))
        found = sampled.whole()[0, :, 0, 0] * 100
        expected = [(sampled.affine @ [slice_, 0, 0, 1])[2] for slice_ in range(sampled.sides[0])]
        # Where voxels become larger, the few that one is the mean of lie a little to one side of its middle.
        assert (found - torch.tensor(expected))[3:-3].abs().max() < 0.01 * spacing[0]


def test_a_mask_has_the_grid_and_the_affine_of_its_volume(tmp_path):
    affine = np.array([[0.9, 0.3, 0, 1], [-0.3, 0.9, 0.1, 2], [0, -0.1, 1.2, 3], [0, 0, 0, 1]])
    source = write_nifti(tmp_path / "a.nii.gz", ARRAY, affine)
    volume = read_volume(source)
    labels = torch.from_numpy(GENERATOR.integers(0, 4, size=volume.sides)).to(torch.uint8)
    write_mask(labels, tmp_path / "mask.nii.gz", volume)
    mask, image = nibabel.load(tmp_path / "mask.nii.gz"), nibabel.load(source)
    assert (mask.affine == image.affine).all()
    assert (mask.shape, mask.get_data_dtype()) == (image.shape, np.dtype(np.uint8))
    assert mask.header["sform_code"] == image.header["sform_code"]
    assert_same(whole(read_volume(tmp_path / "mask.nii.gz"))[0].to(torch.uint8), labels)
    first = (tmp_path / "mask.nii.gz").read_bytes()
    write_mask(labels, tmp_path / "mask.nii.gz", volume)
    assert (tmp_path / "mask.nii.gz").read_bytes() == first


def test_a_mask_of_a_series_lies_where_the_series_does(tmp_path):
    volume = read_volume(write_series(tmp_path / "scan", np.zeros((4, 5, 6), dtype=int)))
    labels = torch.zeros(4, 5, 6, dtype=torch.uint8)
    labels[3, 1, 2] = 1
    write_mask(labels, tmp_path / "mask.nii.gz", volume)
    mask = nibabel.load(tmp_path / "mask.nii.gz")
    (place,) = np.argwhere(np.asarray(mask.dataobj))
    assert (mask.affine @ [*place, 1])[:3] == pytest.approx((volume.affine @ [3, 1, 2, 1])[:3])


def bad(tmp_path, kind):
    """Write a file that is wrong in one way, and return it."""
    path = tmp_path / "a.nii.gz"
    if kind == "cut":
        write_nifti(path, ARRAY)
        path.write_bytes(path.read_bytes()[:300])
    elif kind == "other bytes":
        path.write_bytes(gzip.compress(b"hello" * 200))
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "series over time":
        write_nifti(path, np.zeros((3, 4, 5, 6), dtype=np.float32))
    elif kind == "singular":
        path = write_nifti(tmp_path / "a.nii", ARRAY)
        content = path.read_bytes()
        # The first row of the affine becomes the second, as NIfTI has them from byte 280 on.
        path.write_bytes(content[:280] + content[296:312] + content[296:])
    elif kind == "colours":
        path = tmp_path / "a.tif"
        from PIL import Image

        Image.new("RGB", (4, 5)).save(path, save_all=True, append_images=[Image.new("RGB", (4, 5))])
    elif kind == "hyperstack":
        path = tmp_path / "a.tif"
        from PIL import Image

        pages = [Image.new("L", (4, 5)) for _ in range(4)]
        description = "ImageJ=1.53\nimages=4\nchannels=2\nslices=2\n"
        pages[0].save(path, save_all=True, append_images=pages[1:], tiffinfo={270: description})
    elif kind in ("one slice", "no spacing"):
        path = tmp_path / "a.nii.gz"
        array = ARRAY[0] if kind == "one slice" else ARRAY
        image = nibabel.Nifti1Image(array, None)
        image.header["pixdim"][1:4] = (1, 1, 1) if kind == "one slice" else (1, 0, 2)
        content = bytearray(image.to_bytes())
        # Written as it stands: nibabel itself would take 1 for 0.
        content[76:108] = image.header["pixdim"].tobytes()
        path.write_bytes(gzip.compress(bytes(content)))
    elif kind == "two axes":
        path = tmp_path / "a.npy"
        np.save(path, np.zeros((4, 5)))
    elif kind == "objects":
        path = tmp_path / "a.npy"
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    elif kind == "spacing":
        path = tmp_path / "a.npz"
        np.savez(path, volume=ARRAY, spacing=np.array([1.0, 0.0, 1.0]))
    elif kind == "no voxel":
        path = tmp_path / "a.npy"
        np.save(path, np.zeros((4, 0, 5)))
    else:
        path = tmp_path / "a.png"
        path.write_bytes(b"x")
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("cut", "a.nii.gz cannot be read as NIfTI"),
        ("other bytes", "a.nii.gz cannot be read as NIfTI"),
        ("empty", "a.nii.gz is empty"),
        (
            "series over time",
            r"one volume of three axes; got shape \(3, 4, 5, 6\): divide a series over time",
        ),
        ("singular", r"an affine that gives its voxels no place \(it is singular"),
        ("colours", "must hold grey pages; page 0 has colours"),
        ("hyperstack", "must hold one volume; it has 2 channels: save each as a stack"),
        ("one slice", r"must hold one volume of three axes; got shape \(5, 11\)$"),
        ("no spacing", "numbers that are not zero; its header has 1, 0, 2: mend pixdim, or give it an sform"),
        ("two axes", r"must hold \(slices, rows, columns\)"),
        ("objects", "cannot be read as a volume"),
        ("spacing", "spacing of .* must be above zero"),
        ("no voxel", "holds no voxel"),
        ("picture", r"is no volume \(.nii.gz, .nii"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, kind, says):
    path = bad(tmp_path, kind)
    with pytest.raises(ValueError, match=says) as raised:
        read_volume(path)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("kind", ["nifti", "archive", "compressed archive"])
def test_a_bit_that_is_wrong_is_told_by_the_checksum(tmp_path, kind):
    array = GENERATOR.integers(-3, 4, (24, 24, 24)).cumsum(0).astype(np.int16)
    path = tmp_path / ("a.nii.gz" if kind == "nifti" else "a.npz")
    if kind == "nifti":
        write_nifti(path, array)
    else:
        (np.savez if kind == "archive" else np.savez_compressed)(path, volume=array)
    content = bytearray(path.read_bytes())
    # One whose change leaves a stream that can be decompressed, as most do.
    for place in range(len(content) // 2, len(content) // 2 + 8):
        content[place] ^= 1
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path.name} cannot be read as") as raised:
            read_volume(path)
        assert "\n" not in str(raised.value)
        content[place] ^= 1


def test_voxels_that_are_no_numbers_are_named(tmp_path):
    array = ARRAY.copy()
    array[2, 3, 4] = np.nan
    volume = read_volume(write_nifti(tmp_path / "a.nii", array, np.diag([1.0, 1, 1, 1])))
    # In RAS the second axis runs to the front and the first to the right: rows and columns run against them.
    with pytest.raises(ValueError, match=r"no finite numbers .* in slice 4, row 1, column 4: fill them"):
        whole(volume)
    # A part without it is read, as volumes that exceed memory are.
    assert volume.box((0, 0, 0), (4, 5, 7)).isfinite().all()


def other_series(number, slice_):
    if number == 2:
        slice_.SeriesInstanceUID = "1.2.3"


def moved(number, slice_):
    if number == 2:
        slice_.ImagePositionPatient = [-10, 20, 5 + 2 * 2.4]


def twice(number, slice_):
    if number == 2:
        slice_.ImagePositionPatient = [-10, 20, 5 + 2.0]


def in_place(number, slice_):
    slice_.ImagePositionPatient = [-10, 20, 5]


def larger(number, slice_):
    if number == 2:
        slice_.Rows, slice_.Columns = slice_.Columns, slice_.Rows


def turned(number, slice_):
    if number == 2:
        slice_.ImageOrientationPatient = [0, 1, 0, 1, 0, 0]


def nowhere(number, slice_):
    del slice_.ImagePositionPatient


def beside(number, slice_):
    # As far along the body as it should be, and out of line with the others.
    if number == 2:
        slice_.ImagePositionPatient = [20, 20, 5 + 2 * 2.0]


def ended(number, slice_):
    # What pydicom reads of a file that is cut: nothing after where it ends.
    if number == 2:
        del slice_.ImageOrientationPatient


def several(number, slice_):
    slice_.NumberOfFrames = 3


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (other_series, "must hold the slices of one series; IM001.dcm and IM002.dcm are of two"),
        (moved, "must be evenly spaced; they are 2 mm apart"),
        (twice, "a slice is missing or is there twice"),
        (in_place, "must be evenly spaced; they are 0 mm apart"),
        (larger, "must have the same Rows; IM001.dcm has 5 and IM002.dcm has 6"),
        (turned, "must have the same ImageOrientationPatient"),
        (beside, "must lie on one line; IM002.dcm lies 30 mm beside it"),
        (ended, "IM002.dcm does not say ImageOrientationPatient, as other slices .* it may be cut"),
        (nowhere, "does not say where its slice lies"),
        (several, "holds 3 frames: a series is read from a file a slice"),
    ],
)
def test_a_wrong_series_is_one_line(tmp_path, change, says):
    folder = write_series(tmp_path / "scan", np.zeros((4, 5, 6), dtype=int), change=change)
    with pytest.raises(ValueError, match=says) as raised:
        read_volume(folder)
    assert "\n" not in str(raised.value)


def test_series_as_scanners_write_them(tmp_path):
    array = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    straight = read_volume(write_series(tmp_path / "straight", array))

    def rounded(number, slice_):
        slice_.ImageOrientationPatient = [1, 1e-6 * number, 0, 0, 1, -2e-6 * number]

    noisy = read_volume(write_series(tmp_path / "rounded", array, change=rounded))
    assert_same(whole(noisy), whole(straight))

    def tilted(number, slice_):
        slice_.ImagePositionPatient = [-10, 20 + 0.5 * number, 5 + 2.0 * number]

    leaning = read_volume(write_series(tmp_path / "tilted", array, change=tilted))
    assert_same(whole(leaning), whole(straight))
    # The axes are askew as the slices lie: the first slice's corner stays, the last is 1.5 mm further back.
    apart = (leaning.affine - straight.affine) @ [3, 0, 0, 1]
    assert_near(torch.tensor(apart[:3]), torch.tensor([0.0, -1.5, 0.0], dtype=torch.float64))
    for file in (tmp_path / "straight").iterdir():
        file.rename(file.with_suffix(".IMA"))
    assert_same(whole(read_volume(tmp_path / "straight")), whole(straight))


def test_a_file_in_a_series_that_is_none(tmp_path):
    folder = write_series(tmp_path / "scan", np.zeros((2, 5, 6), dtype=int))
    (folder / "notes.txt").write_text("of the scan")
    with pytest.raises(ValueError, match=r"notes.txt is no DICOM file, .*: take it out of the folder"):
        read_volume(folder)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_series_is_told_in_any_order_of_the_files(tmp_path, monkeypatch, backwards):
    folder = write_series(tmp_path / "scan", np.zeros((2, 5, 6), dtype=int))
    for path in folder.iterdir():
        path.rename(path.with_suffix(""))
    for name in ("A", "B", "C", "X", "Y", "Z"):
        (folder / name).write_text("of the scan")
    own = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(own(self), reverse=backwards)))
    assert find_volumes([tmp_path]) == [folder]


@pytest.fixture
def classes(tmp_path):
    for name, number in (("full", 1.0), ("hollow", 0.0)):
        for place in range(4):
            write_nifti(tmp_path / "data/train" / name / f"{place}.nii.gz", ARRAY + number)
        write_series(tmp_path / "data/test" / name / "scan", np.zeros((4, 5, 6), dtype=int))
        np.save(tmp_path / "data/test" / name / "b.npy", ARRAY)
        (tmp_path / "data/validation" / name).mkdir(parents=True)
        np.save(tmp_path / "data/validation" / name / "c.npy", ARRAY)
    return tmp_path / "data"


def test_a_folder_a_class(classes):
    assert recognised_data(classes) == "volumes"
    data = load_dataset("volumes", "test", data_dir=classes, image_size=12)
    assert (data.classes, data.targets) == (("full", "hollow"), [0, 0, 1, 1])
    assert data.sample_id(1).endswith("full/scan")
    assert [data[index][0].shape for index in range(4)] == 4 * [(1, 12, 12, 12)]
    # With a spacing the cube is what is around the middle, and the lowest value where there is nothing.
    cut = load_dataset("volumes", "train", data_dir=classes, image_size=8, spacing=(1.5, 2.0, 1.0))
    sampled = Sampled(read_volume(classes / "train/full/0.nii.gz"), Reading((1.5, 2.0, 1.0)))
    assert sampled.sides == (11, 5, 7)
    expected = sampled.whole()[:, 1:9]
    assert_same(cut[0][0][:, :, 2:7, 1:8], expected)
    assert float(cut[0][0][:, :, :2].max()) == float(expected.min())


def test_variation_is_random_and_fixed_by_a_seed(classes):
    data = load_dataset("volumes", "train", data_dir=classes, image_size=6, augment=True)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(data[0][0])
    assert_same(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_named_files_and_folders(classes):
    assert find_volumes([classes / "test/full"]) == [classes / "test/full/b.npy", classes / "test/full/scan"]
    assert volume_stem(classes / "train/full/0.nii.gz") == "0"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"image_size": (8, 8)}, "must be an integer for volumes"),
        ({"image_size": 0}, "image_size must be a whole number"),
        ({"image_size": 2**12 + 1}, "image_size must be a whole number"),
        ({"spacing": (1.0, 0.0, 1.0)}, "spacing must be three numbers above zero"),
        ({"spacing": (1.0, 1.0)}, "spacing must be three numbers above zero"),
        ({"intensity": (2.0, 1.0)}, "intensity must be two numbers that ascend"),
        ({"data_dir": None}, "'volumes' needs data_dir"),
        ({"channels": 1}, "channels applies to 'images' and 'archives' only"),
    ],
)
def test_wrong_settings(classes, settings, says):
    with pytest.raises((ValueError, TypeError), match=says):
        load_dataset("volumes", "train", **{"data_dir": classes, **settings})


def test_nothing_is_drawn_at_random_unless_it_is_asked_for(classes):
    data = load_volumes(classes, "train", image_size=8)
    assert_same(data[0][0], data[0][0])
    with pytest.raises(ValueError, match="split must be one of"):
        load_volumes(classes, "training", image_size=8)


def test_settings_of_volumes_are_theirs_alone():
    with pytest.raises(ValueError, match="spacing applies to volumes only, and not to 'digits'"):
        load_dataset("digits", "test", spacing=(1.0, 1.0, 1.0))


def masked(root, array=ARRAY, ids=None, *, mask_affine=AFFINE, ending=".nii.gz"):
    write_nifti(root / "train/images/a.nii.gz", array)
    ids = (array > 0.5) * 2 if ids is None else ids
    if ending == ".npy":
        (root / "train/masks").mkdir(parents=True)
        np.save(root / "train/masks/a.npy", ids)
    else:
        write_nifti(root / f"train/masks/a{ending}", ids, mask_affine, dtype=np.float32)
    (root / "classes.txt").write_text("background\nhalf\nfull\n")
    return root


def test_volumes_with_masks(tmp_path):
    root = masked(tmp_path)
    assert recognised_data(root) == "volume-masks"
    data = load_volume_masks(root, "train", image_size=16, patches=3)
    patch, mask = data[2]
    assert (len(data), patch.shape, mask.dtype) == (3, (1, 16, 16, 16), torch.uint8)
    # What lies beyond the volume has no class, and what is inside has that of its voxel.
    assert (mask == 255).sum() == 16**3 - ARRAY.size
    sampled = Sampled(read_volume(root / "train/images/a.nii.gz"), Reading())
    inside = patch[0][mask != 255]
    assert_same(inside, sampled.whole().flatten())
    assert_same(mask[mask != 255] == 2, sampled.volume.box((0, 0, 0), sampled.sides).flatten() > 0.5)


def test_patches_are_drawn_at_random_and_about_rare_classes(tmp_path):
    ids = np.zeros(ARRAY.shape)
    ids[6, 4, 10] = 1
    data = load_volume_masks(masked(tmp_path, ids=ids), "train", image_size=4, patches=60, augment=True)
    torch.manual_seed(0)
    shares = [float((data[index][1] == 1).any()) for index in range(60)]
    # A quarter is about the only voxel of its class: half of the patches, of two classes that are there.
    assert 0.15 < sum(shares) / 60 < 0.5
    torch.manual_seed(3)
    first = data[0]
    torch.manual_seed(3)
    assert_same(data[0][0], first[0])
    assert_same(data[0][1], first[1])


def test_a_mask_is_mirrored_with_its_volume(tmp_path):
    data = load_volume_masks(masked(tmp_path), "train", image_size=5, patches=20, augment=True)
    for index in range(20):
        torch.manual_seed(index)
        patch, mask = data[index]
        known = mask != 255
        # Values are scaled and shifted, which keeps their order.
        inside = patch[0][known & (mask == 2)]
        outside = patch[0][known & (mask == 0)]
        assert len(inside) == 0 or len(outside) == 0 or inside.min() > outside.max()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"ids": np.zeros((7, 5, 10))},
            "must be as large as its volume: it has 10 x 5 x 7 voxels and .* 11 x 5 x 7",
        ),
        (
            {"mask_affine": AFFINE + np.array([[0, 0, 0, 3], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])},
            "its affine puts it up to 3 mm away from .*: save the mask with the affine of its volume",
        ),
        ({"ending": ".npy"}, "must both say how the body lies, or neither"),
    ],
)
def test_masks_that_do_not_fit(tmp_path, change, says):
    with pytest.raises(ValueError, match=says) as raised:
        load_volume_masks(masked(tmp_path, **change), "train")
    assert "\n" not in str(raised.value)


def test_masks_of_0_and_255_alone(tmp_path):
    """255 is ignored: nothing would be learnt, and nobody told."""
    root = masked(tmp_path, ids=(ARRAY > 0.5) * 255)
    with pytest.raises(
        ValueError, match=r"a\.nii\.gz and the others hold 0 and 255 alone.*save the class as 1"
    ):
        load_volume_masks(root, "train", image_size=4)
    # Another volume has a class.
    write_nifti(root / "train/images/b.nii.gz", ARRAY)
    write_nifti(root / "train/masks/b.nii.gz", ARRAY > 0.5, dtype=np.uint8)
    assert load_volume_masks(root, "train", image_size=4).num_volumes == 2


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
def test_ids_that_a_program_stored_with_a_slope(tmp_path, dtype):
    import nibabel

    ids = np.arange(ARRAY.size).reshape(ARRAY.shape) % 3
    root = masked(tmp_path)
    # nibabel scales floating-point numbers to the whole range of a smaller type.
    image = nibabel.Nifti1Image(ids.astype(np.float64), AFFINE)
    image.set_data_dtype(dtype)
    nibabel.save(image, root / "train/masks/a.nii.gz")
    assert nibabel.load(root / "train/masks/a.nii.gz").dataobj.slope != 1
    data = load_volume_masks(root, "train", image_size=16)
    _, mask = data.open(0)
    stored = np.asarray(nibabel.load(root / "train/masks/a.nii.gz").dataobj)
    assert np.abs(stored - ids).max() > 0
    found = data.ids(mask, (0, 0, 0), mask.sides)
    assert_same(found, mask.box((0, 0, 0), mask.sides)[0].round().to(torch.uint8))
    assert found.unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize(("wrong", "listed"), [(3, "3"), (-1, "-1"), (1.5, "1.5")])
def test_ids_that_are_no_class(tmp_path, wrong, listed):
    data = load_volume_masks(masked(tmp_path, ids=np.full(ARRAY.shape, wrong)), "train", image_size=4)
    with pytest.raises(
        ValueError, match=f"has the ids {listed}, and there are 3 classes, 0 to 2; 255 is ignored"
    ):
        data[0]


def test_volumes_that_do_not_say_their_spacing_are_told_where_that_matters(tmp_path):
    for name in ("a", "b"):
        write_nifti(tmp_path / "train" / name / "0.nii.gz", ARRAY)
        np.save(tmp_path / "train" / name / "1.npy", ARRAY)
    says = r"2 of 4 volumes do not say their spacing, so that a voxel is taken for 1 mm .*: first .*a/1\.npy"
    with pytest.warns(UserWarning, match=says):
        load_volumes(tmp_path, "train", image_size=8, reading=Reading((2.0, 2.0, 2.0)))
    assert len(load_volumes(tmp_path, "train", image_size=8)) == 4


def test_a_volume_without_a_mask(tmp_path):
    root = masked(tmp_path)
    write_nifti(root / "train/images/b.nii.gz", ARRAY)
    with pytest.raises(ValueError, match=r"b.nii.gz has no mask: .*masks/b.nii.gz is missing"):
        load_volume_masks(root, "train")


def test_two_masks_of_a_volume(tmp_path):
    root = masked(tmp_path)
    write_nifti(root / "train/masks/a.nii", ARRAY > 0.5, dtype=np.uint8)
    with pytest.raises(ValueError, match=r"one mask of a name; there are two of 'a', a\.nii and a\.nii\.gz"):
        load_volume_masks(root, "train")


def test_recognition_tells_arrays_and_stacks_apart(tmp_path):
    from PIL import Image

    for name in ("one", "many", "array", "steps"):
        (tmp_path / name / "a").mkdir(parents=True)
    Image.new("L", (4, 5)).save(tmp_path / "one/a/1.tif")
    Image.new("L", (4, 5)).save(
        tmp_path / "many/a/1.tif", save_all=True, append_images=[Image.new("L", (4, 5))]
    )
    np.save(tmp_path / "array/a/1.npy", ARRAY)
    np.save(tmp_path / "steps/a/1.npy", ARRAY[0])
    found = {name: recognised_data(tmp_path / name) for name in ("one", "many", "array", "steps")}
    assert found == {"one": "images", "many": "volumes", "array": "volumes", "steps": "sequences"}


def test_a_reading_comes_back_from_a_file():
    for reading in (Reading(), Reading((1.0, 2.0, 3.0), (-5.0, 5.0))):
        assert Reading.from_dict(reading.to_dict()) == reading
    for wrong in ({}, {"spacing": 3, "intensity": None}, {"spacing": [1, 2], "intensity": None}, None):
        with pytest.raises(ValueError, match=r"volume|spacing"):
            Reading.from_dict(wrong)


def test_nothing_is_warned_of(classes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for split in ("train", "validation", "test"):
            load_dataset("volumes", split, data_dir=classes, image_size=4)


@pytest.mark.parametrize("spacing", [(2.0, 1.0, 1.0), None])
def test_an_array_as_mask_need_not_say_the_spacing(tmp_path, spacing):
    for folder in ("images", "masks"):
        (tmp_path / "train" / folder).mkdir(parents=True)
    facts = {} if spacing is None else {"spacing": np.array(spacing)}
    np.savez(tmp_path / "train/images/a.npz", volume=ARRAY, **facts)
    np.save(tmp_path / "train/masks/a.npy", (ARRAY > 0).astype(np.uint8))
    (tmp_path / "classes.txt").write_text("background\nball\n")
    assert load_volume_masks(tmp_path, "train", image_size=4).num_volumes == 1
