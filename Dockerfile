# butwait on a CPU: `docker build -t butwait .`, then
#   docker run --rm -v "$PWD:/here" --user "$(id -u):$(id -g)" butwait run quickstart
# A run's folder is written to the folder that it is started in, under runs/.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/butwait
ENV PATH=/opt/butwait/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt ./
# PyTorch's own index has builds without CUDA. It comes first, since it changes least.
RUN pip install -c constraints.txt --index-url https://download.pytorch.org/whl/cpu torch
COPY pyproject.toml README.md LICENSE ./
COPY recipes recipes
COPY src src
RUN pip install -c constraints.txt '.[gguf,gym]'

FROM python:3.11-slim-bookworm
COPY --from=build /opt/butwait /opt/butwait
# Whatever user runs it: models and caches have a place that anybody may write to.
ENV PATH=/opt/butwait/bin:$PATH HOME=/home/butwait PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 1000 butwait && mkdir /here && chown butwait /here && chmod 1777 /here /home/butwait
USER 1000
WORKDIR /here
ENTRYPOINT ["butwait"]
CMD ["--help"]
