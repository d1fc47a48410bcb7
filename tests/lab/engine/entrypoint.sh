#!/bin/sh
# Behaves as the entrypoint of NVIDIA's image: a banner, then the command takes its place as process 1.
cat <<BANNER

==========
== vLLM ==
==========

NVIDIA Release ${NVIDIA_VLLM_VERSION} (build ${NVIDIA_BUILD_ID})
vLLM Version ${VLLM_VERSION}
Test stand-in: vLLM on CPU, no NVIDIA software inside.

BANNER
case $NVIDIA_VISIBLE_DEVICES in
'' | void)
  echo 'WARNING: The NVIDIA Driver was not detected.  GPU functionality will not be available.'
  echo '   Use the NVIDIA Container Toolkit to start this container with GPU support.'
  echo
  ;;
esac
[ $# -gt 0 ] || set -- /bin/bash
exec "$@"
