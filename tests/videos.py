"""Small videos for tests: frame i is of grey level 20 + 5 i, so that it is known again after compression."""

from fractions import Fraction

import av
import numpy as np

NUM_FRAMES, HEIGHT, WIDTH, RATE = 40, 48, 64, 25


def level(number):
    return 20 + 5 * number


def numbers(frames):
    """Which frames these are, told from their grey levels; frames (T, H, W, 3), of 0 to 255."""
    return [round((float(frame.float().mean()) - 20) / 5) for frame in frames]


def grey_frames(num_frames=NUM_FRAMES, height=HEIGHT, width=WIDTH):
    for number in range(num_frames):
        yield np.full((height, width, 3), level(number), dtype=np.uint8)


def noise(seed, num_frames=12):
    """Frames whose every pixel differs, so that no other place or time looks the same."""
    first = np.random.default_rng(seed).integers(0, 256, (36, 44, 3), dtype=np.uint8)
    return [np.roll(first, 3 * number, axis=1) for number in range(num_frames)]


def write_video(
    path, images=None, *, codec="libx264", rate=RATE, times=None, options=None, **container_options
):
    """Encode images (H, W, 3), by default 40 grey ones with a keyframe every 12 frames."""
    images = list(grey_frames() if images is None else images)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, rate)
        stream.options = {"g": "12", **(options or {"crf": "10", "bf": "2", "preset": "veryfast"})}
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def remux(source, target, *, after, shift=0):
    """Copy packets from a frame on, in order of decoding, to be shown so many frames earlier."""
    with av.open(str(source)) as read, av.open(str(target), "w") as written:
        stream = read.streams.video[0]
        copied = written.add_stream_from_template(stream)
        unit = int(1 / (RATE * stream.time_base))
        for packet in read.demux(stream):
            if packet.dts is not None and packet.dts >= after * unit:
                packet.pts -= shift * unit
                packet.dts -= shift * unit
                packet.stream = copied
                written.mux(packet)
    return target


def shorten(source, target, *, num_frames):
    """Copy an mp4 and let its edit list end early, as telephones do: every frame is still in the file."""
    content = bytearray(source.read_bytes())
    movie = content.index(b"mvhd") + 16
    units = int.from_bytes(content[movie : movie + 4], "big")
    edits = content.index(b"elst") + 12
    content[edits : edits + 4] = (num_frames * units // RATE).to_bytes(4, "big")
    target.write_bytes(content)
    return target


def cut(source, target, share=0.5):
    """Copy the first part of a file."""
    content = source.read_bytes()
    target.write_bytes(content[: int(len(content) * share)])
    return target


def damaged(source, target, place, length=30):
    """Copy a file with zeros somewhere among its frames; place is from 0 to 1."""
    content = bytearray(source.read_bytes())
    start = content.index(b"mdat" if source.suffix == ".mp4" else b"movi")
    size = int.from_bytes(content[start - 4 : start], "big")
    if source.suffix == ".avi":
        size = int.from_bytes(content[start - 4 : start], "little")
    middle = start + int(size * place)
    content[middle : middle + length] = bytes(length)
    target.write_bytes(content)
    return target
