#!/usr/bin/env python3
"""Checks that the table of contents at the top of lensnet.h names every section, in order.

usage:  python3 tools/check_sections.py [lensnet.h]

A section begins with a ruler (a line of - or =) and, on the next line, " * >>tag  Title.". The table of
contents is the run of lines ">>tag  what it holds" after the word CONTENTS in the header's first comment.
Prints what differs and ends with 1, or prints how many sections agree.
"""
import re
import sys

SECTION = re.compile(r'^ \* >>([a-z0-9-]+)  +\S')
ENTRY = re.compile(r'^[ *]*>>([a-z0-9-]+)\b')
RULER = re.compile(r'^/\* [-=]{20,}$')


def sections(lines):
    found = []
    for ruler, line in zip(lines, lines[1:]):
        match = SECTION.match(line)
        if match and RULER.match(ruler):
            found.append(match.group(1))
    return found


def contents(lines):
    begin = next((i for i, line in enumerate(lines) if 'CONTENTS' in line), None)
    if begin is None:
        return None
    found = []
    for line in lines[begin + 1:]:
        if '*/' in line or RULER.match(line):
            break
        match = ENTRY.match(line)
        if match:
            found.append(match.group(1))
        elif found and not line.strip(' *'):
            break
    return found


def strangers(lines):
    """Private names in the manual that nothing below it defines or calls."""
    end = next(i for i, line in enumerate(lines) if '*/' in line)
    named = set(re.findall(r'\blnp_\w+', '\n'.join(lines[:end])))
    return sorted(named - set(re.findall(r'\blnp_\w+', '\n'.join(lines[end:]))))


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else 'lensnet.h'
    lines = open(path, encoding='ascii').read().split('\n')
    listed, present = contents(lines), sections(lines)
    if listed is None:
        sys.exit('%s: no CONTENTS in it' % path)
    problems = ['a section without an entry in CONTENTS: >>' + tag for tag in present if tag not in listed]
    problems += ['an entry in CONTENTS without a section: >>' + tag for tag in listed if tag not in present]
    problems += ['a tag that stands twice: >>' + tag for tag in sorted(set(present)) if present.count(tag) > 1]
    problems += ['the manual names what does not exist: ' + name for name in strangers(lines)]
    if not problems and listed != present:
        problems = ['CONTENTS has another order than the file: %s' % ' '.join(present)]
    if problems:
        sys.exit('\n'.join('%s: %s' % (path, problem) for problem in problems))
    print('%s: %d sections, all in CONTENTS' % (path, len(present)))


main()
