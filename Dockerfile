# odin-rm on a CPU:
#   docker build -t odin-rm .
#   docker run --rm odin-rm doctor
#   docker run --rm -v "$PWD:/data" odin-rm quickstart --output quickstart
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
# The CPU build of torch is a tenth of the size of the one that pip takes by default.
RUN pip install --index-url https://download.pytorch.org/whl/cpu "$(grep '^torch==' constraints.txt)" \
    && pip install -c constraints.txt . \
    && rm -rf /src

RUN useradd --create-home user && mkdir /data && chown user /data
USER user
WORKDIR /data

# The build fails where the installation is not sound.
RUN odin-rm doctor

ENTRYPOINT ["odin-rm"]
CMD ["--help"]
