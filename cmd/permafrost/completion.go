package main

import (
	"fmt"
	"strings"
)

type completionCmd struct {
	Shell string `arg:"" help:"bash, zsh or fish." enum:"bash,zsh,fish"`
}

// Run prints a script made from the verbs and flags as they are, so that it
// cannot drift from them.
func (k *completionCmd) Run(c *console) error {
	var verbs []string
	flags := map[string][]string{}
	for _, n := range c.parser.Model.Children {
		if n.Hidden {
			continue
		}
		verbs = append(verbs, n.Name)
		for _, f := range n.Flags {
			flags[n.Name] = append(flags[n.Name], "--"+f.Name)
		}
	}
	switch k.Shell {
	case "fish":
		for _, n := range c.parser.Model.Children {
			if n.Hidden {
				continue
			}
			c.printf("complete -c permafrost -n __fish_use_subcommand -a %s -d %q\n", n.Name, n.Help)
			for _, f := range n.Flags {
				c.printf("complete -c permafrost -n '__fish_seen_subcommand_from %s' -l %s -d %q\n", n.Name, f.Name, f.Help)
			}
		}
		return nil
	case "zsh":
		c.printf("#compdef permafrost\nautoload -U +X bashcompinit && bashcompinit\n")
	}
	var cases strings.Builder
	for _, v := range verbs {
		fmt.Fprintf(&cases, "\t\t%s) words=%q ;;\n", v, strings.Join(flags[v], " "))
	}
	c.printf(`_permafrost() {
	local words cur=${COMP_WORDS[COMP_CWORD]}
	if [ "$COMP_CWORD" -eq 1 ]; then
		words=%q
	else
		case ${COMP_WORDS[1]} in
%s		esac
	fi
	case $cur in
	-*|"") COMPREPLY=($(compgen -W "$words" -- "$cur")) ;;
	*) if [ "$COMP_CWORD" -eq 1 ]; then COMPREPLY=($(compgen -W "$words" -- "$cur")); else COMPREPLY=($(compgen -f -- "$cur")); fi ;;
	esac
}
complete -F _permafrost permafrost
`, strings.Join(verbs, " "), cases.String())
	return nil
}
