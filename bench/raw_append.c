/* The limit to compare with: LMDB alone, appending records of one size with a full sync a commit. */

#include <lmdb.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Fill `seconds` with the time of each of `commits` transactions; returns 0 or LMDB's code. */
int raw_append(const char *path, int commits, int records, int size, double *seconds)
{
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    uint64_t seq = 0;
    char *body = malloc(size);
    int rc = mdb_env_create(&env);

    memset(body, 7, size);
    if (rc == 0) rc = mdb_env_set_maxdbs(env, 4);
    if (rc == 0) rc = mdb_env_set_mapsize(env, (size_t)4 << 30);
    if (rc == 0) rc = mdb_env_open(env, path, MDB_NOTLS, 0644);
    if (rc == 0) rc = mdb_txn_begin(env, NULL, 0, &txn);
    if (rc == 0) rc = mdb_dbi_open(txn, "journal", MDB_CREATE | MDB_INTEGERKEY, &dbi);
    if (rc == 0) rc = mdb_txn_commit(txn);
    for (int i = 0; rc == 0 && i < commits; i++) {
        struct timespec before, after;
        MDB_cursor *cursor;
        clock_gettime(CLOCK_MONOTONIC, &before);
        rc = mdb_txn_begin(env, NULL, 0, &txn);
        if (rc == 0) rc = mdb_cursor_open(txn, dbi, &cursor);
        for (int j = 0; rc == 0 && j < records; j++) {
            MDB_val key = {sizeof seq, &seq}, value = {size, body};
            seq++;
            rc = mdb_cursor_put(cursor, &key, &value, MDB_APPEND);
        }
        if (rc == 0) rc = mdb_txn_commit(txn);
        clock_gettime(CLOCK_MONOTONIC, &after);
        seconds[i] = after.tv_sec - before.tv_sec + (after.tv_nsec - before.tv_nsec) * 1e-9;
    }
    mdb_env_close(env);
    free(body);
    return rc;
}
