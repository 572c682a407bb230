//! The letter's phrases in each language. `{domain}` stands for the customer's domain.

use crate::cli::dns::plan::What;

pub(super) struct Phrases {
    /// From the sender to the sentence before the names of the servers.
    pub(super) head: &'static str,
    /// After the names.
    pub(super) request: &'static str,
    spf: &'static str,
    dkim: &'static str,
    dmarc: &'static str,
    mx: &'static str,
    /// When other changes come before.
    mx_last: &'static str,
    pub(super) remove: &'static str,
    /// Behind what is removed.
    pub(super) replacement: &'static str,
    /// Where nothing is removed.
    pub(super) add: &'static str,
    pub(super) notes: &'static str,
    pub(super) about_mx: &'static str,
    pub(super) close: &'static str,
}

impl Phrases {
    pub(super) const fn title(&self, what: What, is_after_others: bool) -> &'static str {
        match what {
            What::Spf => self.spf,
            What::Dkim => self.dkim,
            What::Dmarc => self.dmarc,
            What::Mx if is_after_others => self.mx_last,
            What::Mx => self.mx,
        }
    }
}

pub(super) const ENGLISH: Phrases = Phrases {
    head: "\
<Your company>
<First name and surname>
<Address, telephone>

                                        <Place and date>

<DNS operator>
DNS management
<Address>


Subject: changes to the DNS records of {domain}


Dear Sir or Madam,

You host the DNS zone of our domain {domain}. From now on our e-mail is
filtered by a service whose servers are, in order of priority:

",
    request: "
Would you please make the following changes, in this order? Each line is
written as in a zone file; the dot at the end of a name is part of it.
",
    spf: "SPF: who may send mail in the name of our domain",
    dkim: "DKIM: the public key with which signatures of our mail are verified",
    dmarc: "DMARC: what becomes of mail that is not ours, and who gets reports",
    mx: "MX: where mail for our domain is delivered",
    mx_last: "MX: where mail for our domain is delivered. Please make this change\n   last, when all the records above can be seen in DNS",
    remove: "   Please remove what is there now:\n\n",
    replacement: "\n   and put this in its place:\n\n",
    add: "   Please add:\n\n",
    notes: "
A TXT record that is written in several strings is a single record. If a
form asks for name, type and value instead of a line, and adds the domain
to the name by itself, leave the domain out of the name. All other records
of the zone stay as they are.
",
    about_mx: "\
The lowest value of an MX record has the highest priority. Please leave no
other MX record beside the new ones: mail would reach us unfiltered by it.
",
    close: "
Please let us know when the changes are made.

Thank you for your help.

Yours faithfully,


<First name and surname>
",
};

pub(super) const FRENCH: Phrases = Phrases {
    head: "\
<Votre société>
<Prénom et nom>
<Adresse, téléphone>

                                        <Lieu et date>

<Opérateur DNS>
Service de gestion des DNS
<Adresse>


Objet : modification des enregistrements DNS de {domain}


Madame, Monsieur,

Vous hébergez la zone DNS de notre domaine {domain}. Notre messagerie
est désormais filtrée par un service dont les serveurs sont, par ordre de
priorité :

",
    request: "
Nous vous prions d'effectuer les modifications suivantes, dans cet ordre.
Chaque ligne est écrite comme dans un fichier de zone ; le point à la fin
d'un nom en fait partie.
",
    spf: "SPF : qui peut envoyer des messages au nom de notre domaine",
    dkim: "DKIM : la clé publique qui permet de vérifier la signature de nos\n   messages",
    dmarc: "DMARC : le sort des messages qui ne viennent pas de nous, et le\n   destinataire des rapports",
    mx: "MX : où sont remis les messages adressés à notre domaine",
    mx_last: "MX : où sont remis les messages adressés à notre domaine. Merci\n   d'effectuer cette modification en dernier, lorsque tous les\n   enregistrements ci-dessus sont visibles dans le DNS",
    remove: "   Merci de supprimer ce qui s'y trouve actuellement :\n\n",
    replacement: "\n   et de le remplacer par :\n\n",
    add: "   Merci d'ajouter :\n\n",
    notes: "
Un enregistrement TXT écrit en plusieurs chaînes est un seul
enregistrement. Si un formulaire demande le nom, le type et la valeur au
lieu d'une ligne, et complète lui-même le nom par le domaine, n'indiquez
pas le domaine dans le nom. Tous les autres enregistrements de la zone
restent inchangés.
",
    about_mx: "\
La valeur la moins élevée d'un enregistrement MX est la plus prioritaire.
Merci de ne laisser aucun autre enregistrement MX à côté des nouveaux :
des messages nous parviendraient par lui sans être filtrés.
",
    close: "
Merci de nous informer lorsque les modifications seront effectives.

En vous remerciant de votre diligence, nous vous prions d'agréer, Madame,
Monsieur, l'expression de nos salutations distinguées.


<Prénom et nom>
",
};
