# 0: the package goes; 1: an upgrade. Xray and its users are left as they are.
if [ "$1" -eq 0 ] && command -v systemctl >/dev/null; then
    if [ -d /run/systemd/system ]; then
        systemctl stop 'xray-agent-hook@*.path' xray-agent-once.timer xray-agent.service \
            xray-agent-kick.socket xray-agent-kick.service >/dev/null 2>&1 || :
    fi
    systemctl disable xray-agent.service xray-agent-kick.socket \
        xray-agent-once.timer >/dev/null 2>&1 || :
fi
