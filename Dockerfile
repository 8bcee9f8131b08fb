# docker build -t vmoer .                          CPU
# docker build -t vmoer --build-arg TORCH=cuda .   NVIDIA GPU (run with --gpus all)
# docker run -p 127.0.0.1:8501:8501 -v vmoer-data:/data vmoer
FROM python:3.11-slim

ARG TORCH=cpu
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 \
    OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 \
    VMOER_HOME=/data VMOER_CACHE=/data/cache

WORKDIR /opt/vmoer
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
COPY vmoer vmoer
COPY store store
COPY pipelines pipelines
COPY app app

# uv knows PyTorch's own CPU index; the default index carries the CUDA build
RUN pip install "uv==0.13.*" \
    && if [ "$TORCH" = cpu ]; then uv pip install --system --torch-backend cpu "$(head -n 1 constraints.txt)"; fi \
    && pip install -c constraints.txt -e ".[product]" \
    && useradd --create-home --uid 10001 vmoer \
    && install -d -o 10001 -g 10001 /data

USER 10001
VOLUME /data
EXPOSE 8501
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=4)"]
CMD ["vmoer", "demo", "--address", "0.0.0.0", "--insecure"]
