-- Made by the registry of 22532db.
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
INSERT INTO "edge" VALUES('old','acme',1767225610000000000,NULL,NULL,'');
CREATE TABLE enrolment (
    routing_key TEXT PRIMARY KEY, edge TEXT NOT NULL REFERENCES edge(name),
    secret_sha256 TEXT NOT NULL, expires_ns INTEGER NOT NULL, redeemed_key TEXT
) STRICT;
INSERT INTO "enrolment" VALUES('d975398a88722bbc','barn','2e4792e54da76f0349f6d18b246d30df0485efc4bd8b4206a8ea57594d1e8b11',1767226500000000000,'01kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk');
INSERT INTO "enrolment" VALUES('8e76249694c7a635','mill','1513332278bf966cd87c6d494c2f527403d87f52ac8038d584cde10db931b2d3',1767226502000000000,'02kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk');
INSERT INTO "enrolment" VALUES('d422bd4b600867bf','shop','10549b0c08a19834d40559426e95994d6316b8bea6e5c2ad96636665a424cf02',1767226504000000000,'03kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk');
INSERT INTO "enrolment" VALUES('3f0842b94c2f32b2','shed','b92892240690144450c30c4a335b1e289d119f4b95404082ec72fb399ff1819a',1767226506000000000,NULL);
INSERT INTO "enrolment" VALUES('abd62d10f1af6213','lost','fba0c0d4926123643c7d79f3445da110ce7610cc12bddefb59c140df29e2834c',1767226507000000000,'05kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk');
INSERT INTO "enrolment" VALUES('52a9dc51b443a5d6','old','86feccd25696d61e6ed4f0146191d36094e9d1557ebbc4d492db6507b79309ae',1767226510000000000,'06kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk');
INSERT INTO "enrolment" VALUES('8281263efbb613e7','old','3f06ff3d4e962dabc157b35102a617bc7c5d6ce2a7e2cabea8f874c358162078',1767226512000000000,'07kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk');
CREATE TABLE key (
    public TEXT PRIMARY KEY, edge TEXT NOT NULL REFERENCES edge(name), added_ns INTEGER NOT NULL
) STRICT;
INSERT INTO "key" VALUES('01kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','barn',1767225601000000000);
INSERT INTO "key" VALUES('02kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','mill',1767225603000000000);
INSERT INTO "key" VALUES('03kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','shop',1767225605000000000);
INSERT INTO "key" VALUES('07kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','old',1767225613000000000);
CREATE TABLE revoked_key (
    public TEXT PRIMARY KEY, edge TEXT NOT NULL, revoked_ns INTEGER NOT NULL
) STRICT;
INSERT INTO "revoked_key" VALUES('05kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','lost',1767225609000000000);
INSERT INTO "revoked_key" VALUES('06kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','old',1767225613000000000);
COMMIT;
