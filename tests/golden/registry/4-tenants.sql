-- Made by the registry of 52a4467.
BEGIN TRANSACTION;
CREATE TABLE api_token (
    sha256 TEXT PRIMARY KEY, tenant TEXT NOT NULL REFERENCES tenant(name), label TEXT NOT NULL,
    may_write INTEGER NOT NULL, created_ns INTEGER NOT NULL
) STRICT;
INSERT INTO "api_token" VALUES('abababababababababababababababababababababababababababababababab','acme','their dashboard',0,1767225603000000000);
CREATE TABLE edge (
    name TEXT PRIMARY KEY, tenant TEXT NOT NULL, created_ns INTEGER NOT NULL,
    revoked_ns INTEGER, last_seen_ns INTEGER, software TEXT NOT NULL DEFAULT ''
, site TEXT NOT NULL DEFAULT '') STRICT;
INSERT INTO "edge" VALUES('barn','default',1767225606000000000,NULL,NULL,'','');
INSERT INTO "edge" VALUES('mill','acme',1767225608000000000,NULL,NULL,'','');
INSERT INTO "edge" VALUES('shop','Acme-GmbH',1767225610000000000,NULL,NULL,'','');
INSERT INTO "edge" VALUES('shed','default',1767225612000000000,NULL,NULL,'','');
INSERT INTO "edge" VALUES('lost','acme',1767225613000000000,1767225615000000000,NULL,'','');
INSERT INTO "edge" VALUES('old','acme',1767225616000000000,NULL,NULL,'','');
INSERT INTO "edge" VALUES('site','acme',1767225623000000000,NULL,NULL,'','Hall 4');
CREATE TABLE enrolment (
    routing_key TEXT PRIMARY KEY, edge TEXT NOT NULL REFERENCES edge(name),
    secret_sha256 TEXT NOT NULL, expires_ns INTEGER NOT NULL, redeemed_key TEXT, guest TEXT
) STRICT;
INSERT INTO "enrolment" VALUES('b79a8c54f82a1101','barn','82fe8e30d8a9fc6147c558fc53f7700f3a3d2cb20f2a34f98ff27470cbfe3085',1767226506000000000,'01kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','p@m{55xzSJtLd*PSUNsv4*7[I*>SHLK+9d}jG]2?');
INSERT INTO "enrolment" VALUES('09b0840be5ba58a3','mill','df3b53a0d4843a5b1cde269d1857f11a3f8d3a6a8457275d15c0a3a7895622c1',1767226508000000000,'02kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','r6+k]{(>@Uy:cpleVrK2Z2C3^5mm{eoGb4PGf6?O');
INSERT INTO "enrolment" VALUES('8b0e98cfc87c9989','shop','d58f8027931ad85f0f15d1d474079b16c5df2154c014623f81c9b28af5dfb38c',1767226510000000000,'03kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','J5jM(FDl@r.bHx3J5ep66:0r!-!)+cqI[CAhjjnY');
INSERT INTO "enrolment" VALUES('eb0c8e925a74b7d5','shed','60d27d0866a5dd3e2f705a641d5bdff852874ec9c25f1eed129d207422d34c83',1767226512000000000,NULL,'n{@=RZ9ynq8F2.uxxZukMTihGOyUP<!ZRZ3@CUId');
INSERT INTO "enrolment" VALUES('2ed2981e2e0a14ad','lost','37445705b7dd1287b6507eada260495c3dca1000d721c70e0e1beda5e8c6c6c6',1767226513000000000,'05kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','aiTSItq9n6XbYw*0dhrewsxeUX@{M2CX8al/nchf');
INSERT INTO "enrolment" VALUES('6bf41f1383767118','old','214d6f6fd1dec44d8813c5c6ccb1fddcb236fb0085d92dae3073edc169ee5850',1767226516000000000,'06kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','Uv%bLB(mwzKSlo<j-!AgXQ=+Vj$lkf=rHF+nlC%&');
INSERT INTO "enrolment" VALUES('ad10eadfed3217e7','old','bb562183fc85d4b75edd6abf4fd708641ea37bc77ac51499fa86aec0126baac8',1767226518000000000,'07kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','Z<M#xVmwkW)C$=J[jK[9fQC<q&OIl<>=)[5nAZ6{');
INSERT INTO "enrolment" VALUES('3194a9bc837a10dd','site','991c84ffe9e1c7bac78e1606176b340fdf13e8b5c67bf524eb37afe5d0657bab',1767226523000000000,NULL,'LV7GTEyYMP-k2Y6^dbP@egKzaILeW1qvx.!t{wnH');
CREATE TABLE key (
    public TEXT PRIMARY KEY, edge TEXT NOT NULL REFERENCES edge(name), added_ns INTEGER NOT NULL
) STRICT;
INSERT INTO "key" VALUES('01kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','barn',1767225607000000000);
INSERT INTO "key" VALUES('02kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','mill',1767225609000000000);
INSERT INTO "key" VALUES('03kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','shop',1767225611000000000);
INSERT INTO "key" VALUES('07kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','old',1767225619000000000);
CREATE TABLE owner (
    edge TEXT PRIMARY KEY, tenant TEXT NOT NULL REFERENCES tenant(name)
) STRICT;
INSERT INTO "owner" VALUES('barn','default');
INSERT INTO "owner" VALUES('mill','acme');
INSERT INTO "owner" VALUES('shop','Acme-GmbH');
INSERT INTO "owner" VALUES('shed','default');
INSERT INTO "owner" VALUES('lost','acme');
INSERT INTO "owner" VALUES('old','acme');
INSERT INTO "owner" VALUES('test','default');
INSERT INTO "owner" VALUES('site','acme');
CREATE TABLE revoked_key (
    public TEXT PRIMARY KEY, edge TEXT NOT NULL, revoked_ns INTEGER NOT NULL
) STRICT;
INSERT INTO "revoked_key" VALUES('05kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','lost',1767225615000000000);
INSERT INTO "revoked_key" VALUES('06kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','old',1767225619000000000);
INSERT INTO "revoked_key" VALUES('08kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','test',1767225622000000000);
CREATE TABLE tenant (
    name TEXT PRIMARY KEY, created_ns INTEGER NOT NULL, removed_ns INTEGER
) STRICT;
INSERT INTO "tenant" VALUES('default',1767225600000000000,NULL);
INSERT INTO "tenant" VALUES('acme',1767225601000000000,NULL);
INSERT INTO "tenant" VALUES('Acme-GmbH',1767225602000000000,NULL);
INSERT INTO "tenant" VALUES('gone',1767225604000000000,1767225605000000000);
COMMIT;
