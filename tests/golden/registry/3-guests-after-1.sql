-- Made by the registry of c544b2f, which opened 1-keys.sql.
BEGIN TRANSACTION;
CREATE TABLE edge (
    name TEXT PRIMARY KEY, tenant TEXT NOT NULL, created_ns INTEGER NOT NULL,
    revoked_ns INTEGER, last_seen_ns INTEGER, software TEXT NOT NULL DEFAULT ''
) STRICT;
INSERT INTO "edge" VALUES('barn','default',1767225600000000000,NULL,NULL,'');
INSERT INTO "edge" VALUES('mill','acme',1767225602000000000,NULL,NULL,'');
INSERT INTO "edge" VALUES('shop','Acme GmbH',1767225604000000000,NULL,NULL,'');
INSERT INTO "edge" VALUES('shed','default',1767225606000000000,NULL,NULL,'');
INSERT INTO "edge" VALUES('lost','acme',1767225607000000000,1767225609000000000,NULL,'');
INSERT INTO "edge" VALUES('new','default',1767225600000000000,NULL,NULL,'');
CREATE TABLE enrolment (
    routing_key TEXT PRIMARY KEY, edge TEXT NOT NULL REFERENCES edge(name),
    secret_sha256 TEXT NOT NULL, expires_ns INTEGER NOT NULL, redeemed_key TEXT
, guest TEXT) STRICT;
INSERT INTO "enrolment" VALUES('9d20480522843ef9','barn','baf8bd199de8204fc4daaf7242f42a211eabfda8ecf8e109cca9d20a42508d0d',1767226500000000000,'01kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk',NULL);
INSERT INTO "enrolment" VALUES('7c525363d52b2dfb','mill','e00f824749dfd32b23e9d39cab2b16f22c9f0b79c5fd3a6ec55eb3a5a9cf21f6',1767226502000000000,'02kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk',NULL);
INSERT INTO "enrolment" VALUES('46238dbccb67ef72','shop','8645502a801a2ead7983c585be5779b2f7120a1a56262d020762618953433b70',1767226504000000000,'03kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk',NULL);
INSERT INTO "enrolment" VALUES('de5ec4d2c022ecc6','shed','4e57e818d5770fcd1d7a8c2bef261e2bad3b990e0a26fd5f8c7a17a154600a89',1767226506000000000,NULL,NULL);
INSERT INTO "enrolment" VALUES('0862cd5d3a66aa74','lost','0b64ce585e2f1e7b7526a48eaeaa53e27f0a99567a9bd5e5eb35142e7dbd0049',1767226507000000000,'05kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk',NULL);
INSERT INTO "enrolment" VALUES('1f36c6c1ded52ce6','new','a1d3add4fa575e14e1236c51e5a02bb3031e83e57fe8c486f0d2169cd8c98c2c',1767226500000000000,'09kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','kJaT&NLkGneVl%y24?YK.]rKr7{27XJs<BcLXB&Q');
CREATE TABLE key (
    public TEXT PRIMARY KEY, edge TEXT NOT NULL REFERENCES edge(name), added_ns INTEGER NOT NULL
) STRICT;
INSERT INTO "key" VALUES('01kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','barn',1767225601000000000);
INSERT INTO "key" VALUES('02kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','mill',1767225603000000000);
INSERT INTO "key" VALUES('03kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','shop',1767225605000000000);
INSERT INTO "key" VALUES('09kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','new',1767225601000000000);
CREATE TABLE revoked_key (
    public TEXT PRIMARY KEY, edge TEXT NOT NULL, revoked_ns INTEGER NOT NULL
) STRICT;
INSERT INTO "revoked_key" VALUES('05kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','lost',1767225609000000000);
COMMIT;
