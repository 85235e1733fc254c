# docker build -t fithubert .
# docker run --rm -v "$PWD:/work" fithubert compress mini recordings --out small
FROM python:3.11-slim
WORKDIR /opt/fithubert
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY fithubert fithubert
RUN pip install --no-cache-dir -c constraints.txt '.[all]'
# Caches of downloads and of libraries lie in the mounted folder, whoever runs the container.
ENV HOME=/work
WORKDIR /work
ENTRYPOINT ["fithubert"]
CMD ["--help"]
