# The user before the files that belong to its group.
getent group xray-agent >/dev/null || groupadd --system xray-agent
getent passwd xray-agent >/dev/null || useradd --system --gid xray-agent \
    --home-dir /var/lib/xray-agent --no-create-home --shell /sbin/nologin xray-agent
