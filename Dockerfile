# nonlocalnn for the CPU: docker build -t nonlocalnn . ; docker run --rm -v "$PWD:/data" nonlocalnn train /data/photos --output /data/run
FROM python:3.12-slim
# Without CUDA's libraries: 0.2 GB instead of 4.
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu
COPY pyproject.toml README.md LICENSE /src/
COPY src /src/src
RUN pip install --no-cache-dir '/src[all]'
WORKDIR /data
ENTRYPOINT ["nonlocalnn"]
CMD ["--help"]
