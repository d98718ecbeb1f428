"""Ask a running explorer from several threads: python load.py --url http://127.0.0.1:8080 --file cat.png."""

import argparse
import http.client
import json
import statistics
import sys
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from queue import Empty, SimpleQueue
from urllib.parse import quote, urlsplit

_POLL_SECONDS = 0.05
_ENDS = ("done", "failed", "cancelled")


def main(words=None):
    """Send the requests, print one line of JSON, and return 0 when every request got its documents."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--models", nargs="+", help="default: the server's first")
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--clients", type=int, default=8, help="threads, each with an address of its own")
    parser.add_argument("--server-pid", type=int, help="also report the server's memory, without its worker")
    args = parser.parse_args(words)
    port = urlsplit(args.url).port
    models = args.models or [json.loads(ask(port, "GET", "/api/models")[2])["models"][0]["name"]]
    body, kind = form_of(args.file, models)
    numbers, rows = SimpleQueue(), SimpleQueue()
    for number in range(args.requests):
        numbers.put(number)

    def work(address):
        while True:
            try:
                numbers.get_nowait()
            except Empty:
                return
            started = time.monotonic()
            outcome, busy = one_request(port, body, kind, models, address)
            rows.put((outcome, busy, time.monotonic() - started))

    before = memory_of(args.server_pid)
    started = time.monotonic()
    # Linux takes all of 127.0.0.0/8 for this machine.
    threads = [
        threading.Thread(target=work, args=(f"127.0.0.{2 + number}",)) for number in range(args.clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [rows.get_nowait() for _ in range(rows.qsize())]
    outcomes = Counter(outcome for outcome, _, _ in found)
    latencies = sorted(seconds for _, _, seconds in found)
    report = {
        "requests": args.requests,
        "clients": args.clients,
        "outcomes": dict(outcomes),
        "busy_answers": sum(busy for _, busy, _ in found),
        "seconds": round(time.monotonic() - started, 3),
        "median_seconds": round(statistics.median(latencies), 3) if found else None,
        "p95_seconds": round(latencies[int(0.95 * (len(latencies) - 1))], 3) if found else None,
        "server_mib_before": before,
        "server_mib_after": memory_of(args.server_pid),
    }
    print(json.dumps(report))
    return 0 if outcomes["done"] == args.requests else 1


def one_request(port, body, kind, models, address):
    """Explain the file once; return how it ended, and how often the server was busy."""
    busy = 0
    try:
        while True:
            status, headers, content = ask(port, "POST", "/api/jobs", body, kind, address)
            if status != 429:
                break
            busy += 1
            time.sleep(float(headers["Retry-After"]))
        if status != 202:
            return f"status {status}", busy
        identity = json.loads(content)["id"]
        while (about := json.loads(ask(port, "GET", f"/api/jobs/{identity}")[2]))["state"] not in _ENDS:
            time.sleep(_POLL_SECONDS)
        if about["state"] != "done":
            return about["state"], busy
        for model in models:
            status, _, content = ask(port, "GET", f"/api/jobs/{identity}/document/{quote(model)}")
            if status != 200 or json.loads(content)["model"] != model:
                return f"document: status {status}", busy
        return "done", busy
    except (OSError, ValueError, http.client.HTTPException) as error:
        return type(error).__name__, busy


def ask(port, method, path, body=None, kind=None, address="127.0.0.1"):
    with closing(
        http.client.HTTPConnection("127.0.0.1", port, timeout=300, source_address=(address, 0))
    ) as connection:
        connection.request(method, path, body, {} if kind is None else {"Content-Type": kind})
        response = connection.getresponse()
        return response.status, response.headers, response.read()


def form_of(file, models):
    parts = [
        f'--edge\r\nContent-Disposition: form-data; name="file"; filename="{file.name}"\r\n\r\n'.encode()
    ]
    parts.append(file.read_bytes() + b"\r\n")
    for model in models:
        parts.append(f'--edge\r\nContent-Disposition: form-data; name="models"\r\n\r\n{model}\r\n'.encode())
    return b"".join(parts) + b"--edge--\r\n", "multipart/form-data; boundary=edge"


def memory_of(process):
    """MiB of memory that a process holds; None where that is not known."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmRSS"))


if __name__ == "__main__":
    sys.exit(main())
