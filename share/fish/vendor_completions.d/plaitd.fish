complete -c plaitd -s h -l help -d 'show this help message and exit'
complete -c plaitd -s f -l foreground -d 'stay in the foreground'
complete -c plaitd -l version -d 'print version, memory layout and commit'
complete -c plaitd -f -a "(path basename -E /etc/plait/*.toml 2>/dev/null)"
