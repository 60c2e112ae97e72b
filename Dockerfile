# The API server in a container.
#   docker build -t ttt-hf .
#   docker run -e TTT_HF_API_KEY=KEY -p 127.0.0.1:8000:8000 ttt-hf
# For NVIDIA GPUs, with PyPI's PyTorch, which brings CUDA along:
#   docker build -t ttt-hf:cuda --build-arg TORCH_INDEX=https://pypi.org/simple .
#   docker run --gpus all -e TTT_HF_API_KEY=KEY -p 127.0.0.1:8000:8000 ttt-hf:cuda
FROM python:3.11-slim

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /opt/ttt-hf

# The largest layer, which changes least. Its dependencies come with the package's own.
COPY constraints.txt ./
RUN pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" -c constraints.txt torch
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir -c constraints.txt ".[serve]"

RUN useradd --create-home ttt
USER ttt
WORKDIR /home/ttt

EXPOSE 8000
HEALTHCHECK --start-period=120s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=5)"]
ENTRYPOINT ["ttt-hf"]
# Other machines can reach it here, so that it needs a key in TTT_HF_API_KEY.
CMD ["serve", "embedded", "--host", "0.0.0.0"]
