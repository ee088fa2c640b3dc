# A local stand-in for python:3.11-slim, from the archive that fastroot.sh makes.
FROM scratch
ADD rootfs.tar /
RUN ln -sf python3 /usr/bin/python && rm -f /usr/lib/python3.11/EXTERNALLY-MANAGED
CMD ["python3"]
