# GoDrive with everything it can use: docker build -t godrive . && docker run -p 8080:8080 -v godrive:/data godrive
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY godrive godrive
RUN python -m venv /opt/godrive \
    && PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
        /opt/godrive/bin/pip install --no-cache-dir '.[all]' \
    && /opt/godrive/bin/pip uninstall --yes pip

FROM python:3.13-slim
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin godrive \
    && install --directory --owner=godrive --mode=0700 /data
COPY --from=build /opt/godrive /opt/godrive
ENV PATH=/opt/godrive/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GODRIVE_SERVER_HOST=0.0.0.0 \
    GODRIVE_SERVER_DATA_DIR=/data
USER godrive
VOLUME /data
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/readyz', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["godrive"]
CMD ["serve"]
