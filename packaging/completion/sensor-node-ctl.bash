# bash completion for sensor-node-ctl                      -*- shell-script -*-
# shellcheck shell=bash
# shellcheck disable=SC2154  # generate.py prints both arrays before this: what it knows of commands

_sensor_node_ctl()
{
    # shellcheck disable=SC2034  # _init_completion sets them all
    local cur prev words cword split
    _init_completion -s || return

    # The first word that is neither an option nor -c's file is the command.
    local command='' word i
    for ((i = 1; i < cword; i++)); do
        word=${words[i]}
        case $word in
            -c) ((i++)) ;;
            -*) ;;
            *)
                command=$word
                break
                ;;
        esac
    done

    if [[ $command:$prev == :-c ]]; then
        _filedir ini
        return
    fi
    local candidates
    if [[ $prev == -* && ${_sensor_node_ctl_values[$command:$prev]+set} ]]; then
        candidates=${_sensor_node_ctl_values[$command:$prev]}
    elif [[ $split == true ]]; then
        return
    elif [[ -z $command && $cur == -* ]]; then
        candidates='-c --version --help'
    elif [[ -z $command ]]; then
        candidates=${!_sensor_node_ctl_options[*]}
    elif [[ $cur != -* && ${_sensor_node_ctl_values[$command:]+set} ]]; then
        # An id has no candidates: only a person knows it.
        candidates=${_sensor_node_ctl_values[$command:]}
    else
        candidates=${_sensor_node_ctl_options[$command]-}
    fi
    if [[ $candidates == @files ]]; then
        _filedir
    else
        mapfile -t COMPREPLY < <(compgen -W "$candidates" -- "$cur")
    fi
} &&
    complete -F _sensor_node_ctl sensor-node-ctl
