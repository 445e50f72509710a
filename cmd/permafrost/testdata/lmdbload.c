/* A load for LMDB and its judge.
 *
 *   lmdbload load DIR sync|nosync BOARD   commit numbered transactions for ever
 *   lmdbload check DIR                    check everything, print the newest number
 *
 * The environment is MDB_WRITEMAP: pages are changed in a writable mapping. With
 * nosync nothing is ever synced, so a consistent copy is one that has the
 * stores as a prefix of their order. Transaction n replaces the value of key
 * n modulo KEYS, so the newest number tells what every key holds. The newest
 * acknowledged number is stored in BOARD, 8 bytes, which lies elsewhere.
 */
#include <fcntl.h>
#include <lmdb.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { KEYS = 3000, LONGEST = 2048 };

static void must(int rc, const char *what)
{
	if (rc != 0) {
		fprintf(stderr, "%s: %s\n", what, mdb_strerror(rc));
		exit(1);
	}
}

/* Values of more than a page go to pages of their own: all kinds occur. */
static size_t value_of(uint64_t n, unsigned char *buf)
{
	size_t len = 16 + n * 2654435761u % (n % 16 == 0 ? LONGEST : 200);

	for (size_t i = 0; i < len; i++)
		buf[i] = (unsigned char)(n >> (8 * (i % 8))) ^ (unsigned char)(i / 8);
	return len;
}

static MDB_env *open_env(const char *dir, unsigned flags)
{
	MDB_env *env;

	must(mdb_env_create(&env), "create");
	must(mdb_env_set_mapsize(env, 12 << 20), "map size");
	must(mdb_env_open(env, dir, flags, 0600), "open");
	return env;
}

static void load(const char *dir, unsigned flags, const char *board_path)
{
	static unsigned char buf[LONGEST + 16];
	int fd = open(board_path, O_RDWR);
	volatile uint64_t *board = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	MDB_env *env = open_env(dir, flags);
	MDB_txn *txn;
	MDB_dbi dbi;

	if (board == MAP_FAILED) {
		perror(board_path);
		exit(1);
	}
	for (uint64_t n = 1;; n++) {
		uint32_t k = n % KEYS, last = UINT32_MAX;
		MDB_val key = {sizeof k, &k}, newest = {sizeof last, &last}, number = {sizeof n, &n}, value = {value_of(n, buf), buf};

		must(mdb_txn_begin(env, NULL, 0, &txn), "begin");
		must(mdb_dbi_open(txn, NULL, MDB_INTEGERKEY, &dbi), "open the data base");
		must(mdb_put(txn, dbi, &key, &value, 0), "put");
		must(mdb_put(txn, dbi, &newest, &number, 0), "put the number");
		must(mdb_txn_commit(txn), "commit");
		__atomic_store_n(board, n, __ATOMIC_RELEASE);
	}
}

static void check(const char *dir)
{
	static unsigned char want[LONGEST + 16];
	MDB_env *env = open_env(dir, 0);
	uint32_t last = UINT32_MAX;
	uint64_t newest = 0, seen = 0;
	MDB_val key = {sizeof last, &last}, value;
	MDB_cursor *cursor;
	MDB_txn *txn;
	MDB_dbi dbi;
	int rc;

	must(mdb_txn_begin(env, NULL, MDB_RDONLY, &txn), "begin");
	must(mdb_dbi_open(txn, NULL, MDB_INTEGERKEY, &dbi), "open the data base");
	rc = mdb_get(txn, dbi, &key, &value);
	if (rc != MDB_NOTFOUND) {
		must(rc, "get the number");
		memcpy(&newest, value.mv_data, sizeof newest);
	}
	must(mdb_cursor_open(txn, dbi, &cursor), "cursor");
	while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
		uint32_t k;
		uint64_t n;

		memcpy(&k, key.mv_data, sizeof k);
		if (k == UINT32_MAX)
			continue;
		n = newest - (newest - k) % KEYS;
		if (value.mv_size != value_of(n, want) || memcmp(value.mv_data, want, value.mv_size) != 0) {
			fprintf(stderr, "key %u does not hold transaction %llu, the newest of its own (of %llu)\n", k, (unsigned long long)n, (unsigned long long)newest);
			exit(1);
		}
		seen++;
	}
	if (rc != MDB_NOTFOUND)
		must(rc, "walk");
	if (seen != (newest < KEYS ? newest : KEYS)) {
		fprintf(stderr, "%llu keys with transaction %llu as the newest\n", (unsigned long long)seen, (unsigned long long)newest);
		exit(1);
	}
	printf("%llu\n", (unsigned long long)newest);
}

int main(int argc, char **argv)
{
	if (argc == 5 && strcmp(argv[1], "load") == 0)
		load(argv[2], MDB_WRITEMAP | (strcmp(argv[3], "nosync") == 0 ? MDB_NOSYNC : 0), argv[4]);
	else if (argc == 3 && strcmp(argv[1], "check") == 0)
		check(argv[2]);
	else
		return 2;
	return 0;
}
