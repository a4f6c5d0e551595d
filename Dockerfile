# threadwire in a container that is not root (docs/deploy.md).
#
#   docker build -t threadwire .
#   docker run -p 127.0.0.1:8000:8000 -v threadwire:/data \
#     -e THREADWIRE_AUTH__MODE=tokens -e THREADWIRE_AUTH__TOKENS='{"ada": "…"}' -e OPENAI_API_KEY threadwire

FROM python:3.12-slim AS build
WORKDIR /src
COPY . .
RUN python -m venv /opt/threadwire && /opt/threadwire/bin/pip install --no-cache-dir '.[speed,jwt,otel,mcp]'

FROM python:3.12-slim
RUN useradd --system --uid 10001 --home-dir /data --create-home threadwire
COPY --from=build /opt/threadwire /opt/threadwire
ENV PATH=/opt/threadwire/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    THREADWIRE_SERVER__HOST=0.0.0.0 \
    THREADWIRE_STORAGE__URL=sqlite:////data/threadwire.db
USER 10001
WORKDIR /data
VOLUME /data
EXPOSE 8000
# The server is process 1 and gets the SIGTERM itself; give it longer than server.drain_seconds to end.
STOPSIGNAL SIGTERM
# Another port, or server.tls, needs another check: --health-cmd, or a HEALTHCHECK of your own image.
HEALTHCHECK --interval=30s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
ENTRYPOINT ["threadwire"]
CMD ["serve"]
