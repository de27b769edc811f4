# programs_common.sh - how programs.sh and cluster.sh run a program and count what they have seen (read by them).

passed=0
failed=0

# good TEXT: counts the last command's success
good() {
    if [ $? -eq 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $1"
        [ -s out.txt ] && tail -5 out.txt | sed 's/^/    /'
        [ -s err.txt ] && tail -5 err.txt | sed 's/^/    /'
    fi
}

# run PROGRAM ...: stdout and stderr go to out.txt and err.txt
run() { "$@" >out.txt 2>err.txt; }
