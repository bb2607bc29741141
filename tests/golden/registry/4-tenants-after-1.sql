-- Made by the registry of 52a4467, which opened 1-keys.sql.
BEGIN TRANSACTION;
CREATE TABLE api_token (
    sha256 TEXT PRIMARY KEY, tenant TEXT NOT NULL REFERENCES tenant(name), label TEXT NOT NULL,
    may_write INTEGER NOT NULL, created_ns INTEGER NOT NULL
) STRICT;
CREATE TABLE edge (
    name TEXT PRIMARY KEY, tenant TEXT NOT NULL, created_ns INTEGER NOT NULL,
    revoked_ns INTEGER, last_seen_ns INTEGER, software TEXT NOT NULL DEFAULT ''
, site TEXT NOT NULL DEFAULT '') STRICT;
INSERT INTO "edge" VALUES('barn','default',1767225600000000000,NULL,NULL,'','');
INSERT INTO "edge" VALUES('mill','acme',1767225602000000000,NULL,NULL,'','');
INSERT INTO "edge" VALUES('shop','Acme-GmbH-033aedd8',1767225604000000000,NULL,NULL,'','');
INSERT INTO "edge" VALUES('shed','default',1767225606000000000,NULL,NULL,'','');
INSERT INTO "edge" VALUES('lost','acme',1767225607000000000,1767225609000000000,NULL,'','');
INSERT INTO "edge" VALUES('new','default',1767225601000000000,NULL,NULL,'','');
CREATE TABLE enrolment (
    routing_key TEXT PRIMARY KEY, edge TEXT NOT NULL REFERENCES edge(name),
    secret_sha256 TEXT NOT NULL, expires_ns INTEGER NOT NULL, redeemed_key TEXT
, guest TEXT) STRICT;
INSERT INTO "enrolment" VALUES('9d20480522843ef9','barn','baf8bd199de8204fc4daaf7242f42a211eabfda8ecf8e109cca9d20a42508d0d',1767226500000000000,'01kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk',NULL);
INSERT INTO "enrolment" VALUES('7c525363d52b2dfb','mill','e00f824749dfd32b23e9d39cab2b16f22c9f0b79c5fd3a6ec55eb3a5a9cf21f6',1767226502000000000,'02kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk',NULL);
INSERT INTO "enrolment" VALUES('46238dbccb67ef72','shop','8645502a801a2ead7983c585be5779b2f7120a1a56262d020762618953433b70',1767226504000000000,'03kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk',NULL);
INSERT INTO "enrolment" VALUES('de5ec4d2c022ecc6','shed','4e57e818d5770fcd1d7a8c2bef261e2bad3b990e0a26fd5f8c7a17a154600a89',1767226506000000000,NULL,NULL);
INSERT INTO "enrolment" VALUES('0862cd5d3a66aa74','lost','0b64ce585e2f1e7b7526a48eaeaa53e27f0a99567a9bd5e5eb35142e7dbd0049',1767226507000000000,'05kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk',NULL);
INSERT INTO "enrolment" VALUES('993dd5028005982b','new','c7215f044eaa71b548dd71665ebb2c7d95ffd84d0f67fd69152d57036d0b2da9',1767226501000000000,'09kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','gXXcUDGF{M^s{&*&(@rxp5WQj4V5CEnn&Lhty6A:');
CREATE TABLE key (
    public TEXT PRIMARY KEY, edge TEXT NOT NULL REFERENCES edge(name), added_ns INTEGER NOT NULL
) STRICT;
INSERT INTO "key" VALUES('01kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','barn',1767225601000000000);
INSERT INTO "key" VALUES('02kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','mill',1767225603000000000);
INSERT INTO "key" VALUES('03kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','shop',1767225605000000000);
INSERT INTO "key" VALUES('09kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','new',1767225602000000000);
CREATE TABLE owner (
    edge TEXT PRIMARY KEY, tenant TEXT NOT NULL REFERENCES tenant(name)
) STRICT;
INSERT INTO "owner" VALUES('barn','default');
INSERT INTO "owner" VALUES('mill','acme');
INSERT INTO "owner" VALUES('shop','Acme-GmbH-033aedd8');
INSERT INTO "owner" VALUES('shed','default');
INSERT INTO "owner" VALUES('lost','acme');
INSERT INTO "owner" VALUES('new','default');
CREATE TABLE revoked_key (
    public TEXT PRIMARY KEY, edge TEXT NOT NULL, revoked_ns INTEGER NOT NULL
) STRICT;
INSERT INTO "revoked_key" VALUES('05kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','lost',1767225609000000000);
CREATE TABLE tenant (
    name TEXT PRIMARY KEY, created_ns INTEGER NOT NULL, removed_ns INTEGER
) STRICT;
INSERT INTO "tenant" VALUES('default',1767225600000000000,NULL);
INSERT INTO "tenant" VALUES('acme',1767225600000000000,NULL);
INSERT INTO "tenant" VALUES('Acme-GmbH-033aedd8',1767225600000000000,NULL);
COMMIT;
