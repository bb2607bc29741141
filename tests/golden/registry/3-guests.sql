-- Made by the registry of c544b2f.
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
    secret_sha256 TEXT NOT NULL, expires_ns INTEGER NOT NULL, redeemed_key TEXT, guest TEXT
) STRICT;
INSERT INTO "enrolment" VALUES('07f2c32493ef5b06','barn','fa2169b8b45b03c4eb6bc6d1eb6a91ab6698bca9b8dbf2a473b4ca9d60d7540e',1767226500000000000,'01kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','NLom]b4%h]S@9]HjXqOwJ2UDeONbD*DJt4Lm%CyB');
INSERT INTO "enrolment" VALUES('3b3f98dcf8553b9d','mill','7cfcaec00d68cebc7e6891b8385b3a8455780e70d2782c6a74deb1a7e91334e2',1767226502000000000,'02kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','<]0>{s&@F/6#xjo!f6ji3F:Zc73Gf$c7S^P4=6hW');
INSERT INTO "enrolment" VALUES('9314f13ff6a73350','shop','bbfea7b22b7e047d4201ad22967edf59f3151f34e8b7c42fd01bae4ed6319882',1767226504000000000,'03kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','oI$MJ2)!WxrpYW-fo?UZp85x!R&MU<:u@CyiUTk0');
INSERT INTO "enrolment" VALUES('c9a26c97d575bf64','shed','465afba001346632e462eb95438bfcaac20ca8e553b4502974425bb6031ec34d',1767226506000000000,NULL,'X}eC8wv[59xTzqAak/X7(d7bWU<9mnO^K{^+b=N@');
INSERT INTO "enrolment" VALUES('7c7de83253361d1a','lost','2b74bb1f16cc6bdef2dc1c620d4be6db0bd6072dd96185fee3b05f4cdba35560',1767226507000000000,'05kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','tan<mTdl/**p.<cX&$xSa<7hnuT*nWn%A#:5VK!G');
INSERT INTO "enrolment" VALUES('776a29a350db1f26','old','bd34f8ae4f8911850a079dad82c44d9ace9bc449c0eedc9e6a7bbfa1b2ad4d95',1767226510000000000,'06kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','.ChwZ1D-j&t0&i7*K=[.63j}XX>axVAsl34@!T/k');
INSERT INTO "enrolment" VALUES('016d75b31480d4bd','old','a4e207eabd06a05ca3ebfe6e6bed6657495a7e744aecc0c86bc653072e51dc07',1767226512000000000,'07kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','8Ra/Uqps?GA<?[a4s%:]6p?%21/Dam6kL4Hcojwl');
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
INSERT INTO "revoked_key" VALUES('08kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk','test',1767225616000000000);
COMMIT;
